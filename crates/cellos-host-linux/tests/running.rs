//! Workloads run and end as they should.

use cellos_core::ports::{CellBackend, workload::WorkloadControl};

use crate::support::{backend, document, streams};

#[tokio::test]
async fn output_and_exit_code_pass() {
    let backend = backend();
    let handle = backend
        .create(&document(
            "a",
            &["sh", "-c", "id; ls -la /; cat /proc/self/status; exit 3"],
        ))
        .await
        .unwrap();
    eprintln!("{:#?}", backend.posture("a").await.unwrap());
    let (streams, output) = streams();
    backend.release("a", streams).await.unwrap();
    let code = backend.wait_for_in_vm_exit("a").await.unwrap().unwrap();
    eprintln!("{}", output.read());
    eprintln!("{:?}", backend.exit_report("a").await);
    assert_eq!(code, 3);
    eprintln!("{:?}", backend.destroy_and_measure(&handle).await.unwrap());
}
