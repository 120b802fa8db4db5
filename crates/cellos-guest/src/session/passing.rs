//! What the workload writes, reads and leaves behind, passed between its pipes and the bridge.

use std::time::Instant;

use cellos_bridge::Phase;

use super::{
    DRAIN_PATIENCE, Session, SessionError, Woken,
    cell::{Stage, exit_of},
    files::Progress,
    streams::{Outlet, Passed},
};

impl Session {
    pub(super) fn serve_streams(&mut self, woken: &Woken) -> Result<(), SessionError> {
        let Some(streams) = self.stage.streams() else {
            return Ok(());
        };
        if woken.input {
            streams.input.write();
        }
        if self.end.phase() == Phase::Running {
            streams.input.grant(&mut self.end)?;
        }
        let mut passed = Passed::Nothing;
        for (outlet, woken) in streams.outputs.iter_mut().zip(woken.outputs) {
            if woken && outlet.pass_on(&mut self.end, &mut self.buffer)? == Passed::Some {
                passed = Passed::Some;
            }
        }
        if passed == Passed::Some
            && let Stage::Draining { until, .. } = &mut self.stage
        {
            *until = Instant::now() + DRAIN_PATIENCE;
        }
        Ok(())
    }

    pub(super) fn finish_draining(&mut self) -> Result<(), SessionError> {
        let Stage::Draining { streams, until, .. } = &mut self.stage else {
            return Ok(());
        };
        for outlet in &mut streams.outputs {
            outlet.close_if_empty();
            if *until <= Instant::now() {
                outlet.give_up(&mut self.buffer);
            }
        }
        if streams.outputs.iter().any(Outlet::is_open) {
            return Ok(());
        }
        if let Stage::Draining {
            cell,
            streams,
            report,
            residue,
            ..
        } = std::mem::replace(&mut self.stage, Stage::None)
        {
            self.end.exit(&exit_of(*report, residue, &streams))?;
            self.stage = Stage::Ended {
                folder: cell.folder,
                transfer: None,
            };
        }
        Ok(())
    }

    pub(super) fn send_file(&mut self) -> Result<(), SessionError> {
        if let Stage::Ended { transfer, .. } = &mut self.stage
            && let Some(file) = transfer
            && file.go_on(&mut self.end, &mut self.buffer)? == Progress::Over
        {
            *transfer = None;
        }
        Ok(())
    }
}
