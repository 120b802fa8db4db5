//! The double without a flaw keeps the contract, with and without workload control.

mod control {
    use crate::double::{Control, Double, Flaw};

    fn double() -> Result<Double, cellos_testkit::Missing> {
        Ok(Double::new(Flaw::None, Control::Offered))
    }

    cellos_testkit::backend_contract!(double, runs_workloads);
}

mod plain {
    use crate::double::{Control, Double, Flaw};

    fn double() -> Result<Double, cellos_testkit::Missing> {
        Ok(Double::new(Flaw::None, Control::Absent))
    }

    cellos_testkit::backend_contract!(double);
}
