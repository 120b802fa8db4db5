//! One flaw at a time, and the case that finds it.

use cellos_testkit::{
    alone::{self, Place},
    contract::{self, faults, ids, leaks, lifecycle, workload},
    test_name,
};

use crate::double::{Control, Double, Flaw};

/// One test per flaw: the case, run over a double with the flaw, reports a violation that holds
/// the text. Always in a process of its own: some cases count threads and descriptors, and other
/// tests start and end both.
macro_rules! caught {
    ($($test:ident: $flaw:ident, $control:ident, $module:ident::$case:ident, $text:literal;)+) => {
        $(
            #[test]
            fn $test() {
                if let Place::Parent(result) = alone::rerun(test_name!(), &[]) {
                    return result.unwrap();
                }
                let double = || Ok(Double::new(Flaw::$flaw, Control::$control));
                let violation = contract::run(stringify!($test), double, $module::$case)
                    .expect_err("the flaw was not caught")
                    .to_string();
                assert!(violation.contains($text), "caught for another reason: {violation}");
                alone::finished();
            }
        )+
    };
}

caught! {
    accepted_duplicates: AcceptsDuplicates, Absent,
        lifecycle::refuses_a_duplicate_live_id, "a second cell of the live id";
    harmful_duplicates: DuplicateHarms, Absent,
        lifecycle::refuses_a_duplicate_live_id, "took the first one away";
    racing_creates: CreateRaces, Absent,
        lifecycle::admits_one_of_many_creators_of_an_id, "creators of one id got a cell";
    ids_that_are_never_free: NeverFreesIds, Absent,
        lifecycle::reuses_an_id_after_destroy, "for the time 2";
    wrong_counts_of_peers: CountsGhosts, Absent,
        lifecycle::creates_and_destroys, "1 cells are tracked after the last one";
    wrong_counts_among_many: CountsGhosts, Absent,
        lifecycle::keeps_many_cells_apart, "cells are tracked and";
    an_unknown_destroy_that_claims_success: AlwaysDestroyed, Absent,
        lifecycle::destroying_an_unknown_cell_changes_nothing, "unknown cell is reported";
    an_unknown_destroy_that_harms_others: UnknownDestroyTakesAnother, Absent,
        lifecycle::destroying_an_unknown_cell_changes_nothing, "took another one away";
    an_error_that_names_nothing: ErrorWithoutTheId, Absent,
        lifecycle::destroying_an_unknown_cell_changes_nothing, "does not name the unknown cell";
    a_second_destroy_that_claims_success: AlwaysDestroyed, Absent,
        lifecycle::destroying_twice_removes_once, "second destroy also reports";
    racing_destroys: DestroyRaces, Absent,
        lifecycle::concurrent_destroys_remove_once, "8 of 8 concurrent destroys";
    exit_codes_of_unknown_cells: CodeForUnknown, Absent,
        lifecycle::waiting_for_an_unknown_cell_gives_no_code, "gives exit code 0";

    accepted_hostile_ids: AcceptsHostileIds, Absent,
        ids::refuses_hostile_ids, "id \"\" was accepted";
    hostile_ids_as_host_errors: CallsHostileIdsAHostError, Absent,
        ids::refuses_hostile_ids, "not as an invalid specification";
    refused_long_ids: RefusesLongIds, Absent,
        ids::accepts_every_wellformed_id, "is refused";
    ids_cut_short: CutsIds, Absent,
        ids::accepts_every_wellformed_id, "in the handle";

    faults_that_do_not_fail: IgnoresFaults, Absent,
        faults::a_create_that_fails_leaves_nothing, "in spite of a fault at";
    faults_that_leave_files: FaultLeavesFolder, Absent,
        faults::a_create_that_fails_leaves_nothing, "a fault at \"after the folder\" left";
    faults_that_leave_descriptors: FaultLeavesDescriptor, Absent,
        faults::a_create_that_fails_leaves_nothing, "descriptors grew";
    faults_that_keep_the_id: FaultKeepsId, Absent,
        faults::a_create_that_fails_leaves_nothing, "the id cannot be used";

    leaked_files: LeaksFolder, Absent, lifecycle::creates_and_destroys, "left on the host";
    leaked_files_over_many_cells: LeaksFolder, Absent,
        leaks::many_cycles_leave_nothing, "10 cells left";
    leaked_descriptors: LeaksDescriptor, Absent,
        leaks::many_cycles_leave_nothing, "descriptors grew";
    leaked_threads: LeaksThread, Absent, leaks::many_cycles_leave_nothing, "threads grew";
    leaked_tasks: LeaksTask, Absent, leaks::many_cycles_leave_nothing, "tasks grew";
    leaked_processes: LeaksProcess, Absent, leaks::many_cycles_leave_nothing, "processes grew";
    surviving_daemons: DaemonsSurvive, Offered,
        leaks::destroying_a_running_cell_leaves_no_daemon, "still runs";

    forgotten_workload_cases: None, Offered,
        workload::offers_no_workload_control, "runs_workloads";
    missing_workload_control: None, Absent,
        workload::passes_the_exit_code_on, "no workload control";
    workloads_that_start_early: RunsAtCreate, Offered,
        workload::parks_the_workload_until_it_is_released, "ran before it was released";
    lost_exit_codes: LosesCodes, Offered,
        workload::passes_the_exit_code_on, "exit 1 arrived as 0";
    signals_as_minus_one: SignalIsMinusOne, Offered,
        workload::reports_a_signal_as_such, "SIGKILL arrived as -1";
    ends_that_only_one_waiter_gets: WaitConsumes, Offered,
        workload::gives_every_waiter_the_same_end, "a waiter from before the release got";
    swapped_outputs: SwapsOutputs, Offered,
        workload::passes_the_streams_through, "expected \"out";
    terminate_that_kills: TerminateKills, Offered,
        workload::terminate_ends_a_sleeper, "ended with 137";
    workloads_released_twice: ReleasesTwice, Offered,
        workload::refuses_a_second_release, "released again";
    absent_commands_as_any_error: AbsentIsAnyError, Offered,
        workload::tells_an_absent_command_from_one_that_cannot_run, "does not exist gives";
    workloads_that_survive_destroy: DestroyDetaches, Offered,
        workload::destroying_a_running_cell_kills_it, "the waiter of a destroyed cell";
    invented_exit_reports: InventsExitReports, Offered,
        workload::has_no_exit_report_before_the_end, "a parked workload has an exit report";
    ends_changed_by_stop: ForgetsTheEndOnStop, Offered,
        workload::stopping_what_has_ended_is_no_error, "changed its code to 137";
    promises_that_do_not_show: PromisesProcesses, Offered,
        workload::posture_shows_what_the_descriptor_promises, "pid namespace is the host's";
    teardowns_that_look_for_nothing: LooksForNothing, Offered,
        workload::measures_that_nothing_is_left, "nothing was looked for";
}
