//! The macro that turns the cases into tests.

/// Makes one test of each case of the contract, see [`contract`](crate::contract).
#[macro_export]
macro_rules! backend_contract {
    ($factory:expr) => {
        $crate::__every_backend!($factory);
        $crate::__contract_tests!($factory, run, workload: [
            offers_no_workload_control,
        ]);
    };
    ($factory:expr, runs_workloads) => {
        $crate::__every_backend!($factory);
        $crate::__contract_tests!($factory, run, workload: [
            parks_the_workload_until_it_is_released,
            destroying_a_parked_cell_never_runs_it,
            passes_the_exit_code_on,
            reports_a_signal_as_such,
            gives_every_waiter_the_same_end,
            passes_the_streams_through,
            a_duplicate_create_leaves_the_workload_alone,
            refuses_a_second_release,
            tells_an_absent_command_from_one_that_cannot_run,
            terminate_ends_a_sleeper,
            kill_ends_what_ignores_terminate,
            stopping_what_has_ended_is_no_error,
            destroying_a_running_cell_kills_it,
            knows_nothing_of_unknown_cells,
            has_no_exit_report_before_the_end,
            posture_shows_what_the_descriptor_promises,
            measures_that_nothing_is_left,
        ]);
        $crate::__contract_tests!($factory, run_alone, leaks: [
            destroying_a_running_cell_leaves_no_daemon,
        ]);
    };
}

/// The cases that hold for every backend.
#[doc(hidden)]
#[macro_export]
macro_rules! __every_backend {
    ($factory:expr) => {
        $crate::__contract_tests!($factory, run, lifecycle: [
            creates_and_destroys,
            refuses_a_duplicate_live_id,
            admits_one_of_many_creators_of_an_id,
            reuses_an_id_after_destroy,
            keeps_many_cells_apart,
            destroying_an_unknown_cell_changes_nothing,
            destroying_twice_removes_once,
            concurrent_destroys_remove_once,
            waiting_for_an_unknown_cell_gives_no_code,
        ]);
        $crate::__contract_tests!($factory, run, ids: [
            refuses_hostile_ids,
            accepts_every_wellformed_id,
        ]);
        $crate::__contract_tests!($factory, run_alone, faults: [
            a_create_that_fails_leaves_nothing,
        ]);
        $crate::__contract_tests!($factory, run_alone, leaks: [
            many_cycles_leave_nothing,
        ]);
    };
}

/// One test for each named case of one module.
#[doc(hidden)]
#[macro_export]
macro_rules! __contract_tests {
    ($factory:expr, $run:ident, $module:ident: [$($case:ident),+ $(,)?]) => {
        $(
            #[test]
            fn $case() -> $crate::contract::CaseResult {
                $crate::contract::$run(
                    $crate::test_name!(),
                    $factory,
                    $crate::contract::$module::$case,
                )
            }
        )+
    };
}
