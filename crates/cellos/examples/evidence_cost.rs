//! What evidence costs: appending to the signed log, what it adds to one cell, and checking it. Prints
//! one figure a line, beside what the same work takes without us; `cargo xtask bench` runs it.
//!
//! The lines that are checked are those of the cells that were measured, with new names, numbers and times.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cellos_core::{
    CloudEventV1, ExecutionCellDocument,
    ports::{EventSink, NoopEventSink, workload::Streams},
    signing::{Signer, SoftwareSigner},
};
use cellos_evidence::{
    keyset::{Keyset, KeysetKey},
    line::{self, Tail, signed_bytes},
    log::{AtEnd, Durability, EventLog, LogConfig, LogReader},
    verify::{
        BATCH_SIGNATURES, Checks, End, Silent,
        batch::{BatchItem, BatchKey, all_good},
        verify,
    },
};
use cellos_host_linux::LinuxBackend;
use cellos_isolation::{Launcher, LauncherOptions, Warm};
use cellos_supervisor::{RunRequest, StopRequests, Supervisor};

/// Events appended by one producer, each flushed before the next.
const ONE_BY_ONE: usize = 1000;
/// Events appended by many producers at once, each flushing its own.
const BY_MANY: usize = 20_000;
/// Producers at once.
const PRODUCERS: usize = 64;
/// Cells measured with each kind of evidence, in turn.
const CELLS: usize = 300;
/// Lines of a log that is checked, at least.
const CHECKED: usize = 20_000;
/// Lines that one signature speaks for, in the logs that are checked.
const TOGETHER: [usize; 3] = [1, 2, 8];
/// How often each is checked, in turn; the best time counts.
const CHECKS: usize = 5;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let options = LauncherOptions {
        warm: Warm::Keep(2),
        ..LauncherOptions::default()
    };
    match measure(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evidence_cost: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: LauncherOptions) -> Result<(), Failure> {
    let launcher = Launcher::fork(options.clone())?;
    let folder = std::env::temp_dir().join(format!("cellos-evidence-cost-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        appending(&folder).await?;
        cells(&folder, launcher, &options).await
    });
    let result = result.and_then(|()| checking(&folder));
    fs::remove_dir_all(&folder)?;
    result
}

/// Signed and durable events a second, beside plain lines in a buffered file.
async fn appending(folder: &Path) -> Result<(), Failure> {
    let took = plain_writes(&folder.join("plain.jsonl"), ONE_BY_ONE, 1)?;
    let plain = rate(ONE_BY_ONE, took);
    let log = Arc::new(open(&folder.join("one.jsonl"), Durability::Machine)?);
    let started = Instant::now();
    for number in 0..ONE_BY_ONE {
        log.emit(&event(number)?).await?;
        log.flush().await?;
    }
    let ours = rate(ONE_BY_ONE, started.elapsed());
    figure("plain lines, a disk flush after each line", plain, "1/s");
    figure(
        "signed events by 1 producer, a disk flush after each",
        ours,
        "1/s",
    );

    let took = plain_writes(&folder.join("plain-many.jsonl"), BY_MANY, PRODUCERS)?;
    let plain = rate(BY_MANY, took);
    let log = Arc::new(open(&folder.join("many.jsonl"), Durability::Machine)?);
    let started = Instant::now();
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let log = Arc::clone(&log);
        producers.push(tokio::spawn(async move {
            for number in 0..BY_MANY / PRODUCERS {
                log.emit(&event(producer * BY_MANY + number)?).await?;
                log.flush().await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    for producer in producers {
        producer.await??;
    }
    let ours = rate(BY_MANY, started.elapsed());
    figure(
        &format!("plain lines, a disk flush after each {PRODUCERS}"),
        plain,
        "1/s",
    );
    figure(
        &format!("signed events by {PRODUCERS} producers, each waiting for the disk"),
        ours,
        "1/s",
    );
    Ok(())
}

/// What a program without evidence would do: buffered lines, flushed after every `group`.
fn plain_writes(path: &Path, count: usize, group: usize) -> Result<Duration, Failure> {
    let mut file = BufWriter::new(File::create(path)?);
    let started = Instant::now();
    for number in 0..count {
        serde_json::to_writer(&mut file, &event(number)?)?;
        file.write_all(b"\n")?;
        if (number + 1) % group == 0 {
            file.flush()?;
            file.get_ref().sync_data()?;
        }
    }
    Ok(started.elapsed())
}

/// One cell at a time, without evidence and with it, in turn.
async fn cells(
    folder: &Path,
    launcher: Launcher,
    options: &LauncherOptions,
) -> Result<(), Failure> {
    let backend = Arc::new(LinuxBackend::new(launcher, options)?);
    let kinds: [(&str, Arc<dyn EventSink>); 3] = [
        ("without evidence", Arc::new(NoopEventSink)),
        (
            "evidence that survives processes, signed",
            Arc::new(open(&folder.join("process.jsonl"), Durability::Process)?),
        ),
        (
            "evidence that survives the machine, signed",
            Arc::new(open(&folder.join("machine.jsonl"), Durability::Machine)?),
        ),
    ];
    let supervisors = kinds.map(|(name, sink)| {
        (
            name,
            Supervisor::new(backend.clone()).events(sink),
            Vec::new(),
        )
    });
    let mut supervisors = supervisors;
    for number in 0..CELLS {
        for (index, (_, supervisor, times)) in supervisors.iter_mut().enumerate() {
            let request = RunRequest {
                document: document(number * 3 + index)?,
                raw_spec_sha256: "0".repeat(64),
                run_id: format!("run-{number}-{index}"),
                streams: streams()?,
                operator_timeout: None,
                derivation: None,
                admission: None,
                universal_token: None,
                events_log: None,
            };
            let started = Instant::now();
            let outcome = supervisor.run(request, StopRequests::none()).await;
            times.push(started.elapsed());
            if let Some(error) = outcome.first_error {
                return Err(format!("cell {number}: {error}").into());
            }
        }
    }
    for (name, _, times) in &mut supervisors {
        times.sort_unstable();
        let p50 = times.get(times.len() / 2).copied().unwrap_or_default();
        figure(
            &format!("p50 of a cell, {name}"),
            p50.as_secs_f64() * 1e3,
            "ms",
        );
    }
    Ok(())
}

fn signer() -> SoftwareSigner {
    SoftwareSigner::from_seed("bench", [7; 32])
}

fn open(path: &Path, durability: Durability) -> Result<EventLog, Failure> {
    Ok(EventLog::open(LogConfig {
        durability,
        signer: Some(Arc::new(signer())),
        ..LogConfig::new(path)
    })?)
}

/// Signed lines checked by one thread, beside the checks of their signatures alone. What counts is
/// the processor's time, which other programs do not change.
fn checking(folder: &Path) -> Result<(), Failure> {
    let events = many(&events_of(&folder.join("process.jsonl"))?, CHECKED)?;
    let key = KeysetKey {
        public: signer().verifying_key(),
        not_before: None,
        not_after: None,
        revoked: None,
    };
    let keys: Keyset = [("bench".to_owned(), key)].into_iter().collect();
    let checks = Checks {
        keys: Some(&keys),
        // These lines were never appended, so there is no head.
        end: End::Open,
        ..Checks::default()
    };
    let logs = TOGETHER.map(|together| folder.join(format!("checked-{together}.jsonl")));
    for (together, path) in TOGETHER.into_iter().zip(&logs) {
        let mut tail = Tail::of_new_log("01BENCH");
        let mut file = BufWriter::new(File::create(path)?);
        for events in events.chunks(together) {
            file.write_all(&line::encode(&mut tail, events, Some(&signer()))?)?;
        }
        file.flush()?;
    }
    let signatures = signatures_of(&logs[0])?;
    let mut best = [Duration::MAX; TOGETHER.len() + 2];
    for _ in 0..CHECKS {
        for (path, best) in logs.iter().zip(&mut best) {
            let started = processor_time()?;
            let summary = verify(path, &checks, &mut Silent)?;
            *best = processor_time()?.saturating_sub(started).min(*best);
            if summary.lines != events.len() as u64 || !summary.counts.is_empty() {
                return Err(format!("{} lines, {:?}", summary.lines, summary.counts).into());
            }
        }
        for (check, best) in [batch as fn(&_) -> _, strict]
            .iter()
            .zip(&mut best[TOGETHER.len()..])
        {
            let started = processor_time()?;
            check(&signatures)?;
            *best = processor_time()?.saturating_sub(started).min(*best);
        }
    }
    let names = TOGETHER.map(|together| match together {
        1 => "lines verified, each signed".to_owned(),
        more => format!("lines verified, {more} for each signature"),
    });
    let raw = [
        "their signatures alone, in batches",
        "their signatures alone, one by one",
    ];
    let names = names.into_iter().chain(raw.map(str::to_owned));
    for (name, best) in names.zip(best) {
        figure(&name, rate(events.len(), best), "1/s");
    }
    Ok(())
}

fn events_of(path: &Path) -> Result<Vec<CloudEventV1>, Failure> {
    let mut reader = LogReader::open(path, AtEnd::Stop)?;
    let mut events = Vec::new();
    while let Some(line) = reader.next_line()? {
        events.push(serde_json::from_str(
            line::parse(line.raw.bytes)?.event.get(),
        )?);
    }
    Ok(events)
}

/// The same events again and again, `count` at least, with other ids and later.
fn many(events: &[CloudEventV1], count: usize) -> Result<Vec<CloudEventV1>, Failure> {
    let first: jiff::Timestamp = "2026-01-02T00:00:00Z".parse()?;
    let copies = count.div_ceil(events.len());
    let mut all = Vec::with_capacity(copies * events.len());
    // The events of a run that refer to others refer to its start.
    let mut started = String::new();
    for copy in 0..copies {
        for event in events {
            if event.ty.ends_with(".started") {
                started.clone_from(&event.id);
            }
            let renamed = |text: String, id: &str| text.replace(id, &format!("{copy}-{id}"));
            let mut text = renamed(serde_json::to_string(event)?, &event.id);
            if event.id != started && !started.is_empty() {
                text = renamed(text, &started);
            }
            let text = text.replace("\"run-", &format!("\"run-{copy}-"));
            let mut event: CloudEventV1 = serde_json::from_str(&text)?;
            let micros = i64::try_from(all.len())? * 100;
            let time = first + jiff::SignedDuration::from_micros(micros);
            event.time = Some(time.to_string());
            all.push(event);
        }
    }
    Ok(all)
}

/// What a signature is over, and the signature.
type Signature = (Vec<u8>, [u8; 64]);

fn signatures_of(path: &Path) -> Result<Vec<Signature>, Failure> {
    let mut reader = LogReader::open(path, AtEnd::Stop)?;
    let mut signatures = Vec::new();
    while let Some(line) = reader.next_line()? {
        let parsed = line::parse(line.raw.bytes)?;
        let signature = parsed.signature.ok_or("a line is not signed")?;
        signatures.push((signed_bytes(parsed.entry), signature.bytes));
    }
    Ok(signatures)
}

fn batch(signatures: &[Signature]) -> Result<(), Failure> {
    let key = BatchKey::new(signer().verifying_key().as_bytes()).ok_or("no key")?;
    for signatures in signatures.chunks(BATCH_SIGNATURES) {
        let items: Vec<_> = signatures
            .iter()
            .map(|(message, signature)| BatchItem::new(0, &key, *signature, [message, b""]))
            .collect();
        if !all_good(&items, &[key]) {
            return Err("a signature is not good".into());
        }
    }
    Ok(())
}

fn strict(signatures: &[Signature]) -> Result<(), Failure> {
    let key = signer().verifying_key();
    match signatures
        .iter()
        .all(|(message, signature)| key.verifies(message, signature))
    {
        true => Ok(()),
        false => Err("a signature is not good".into()),
    }
}

/// How long this thread has been executed (proc(5), `schedstat`).
fn processor_time() -> Result<Duration, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// An event of common size.
fn event(number: usize) -> Result<CloudEventV1, serde_json::Error> {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0",
        "id": uuid::Uuid::from_u128(number as u128).to_string(),
        "source": "cellos-supervisor",
        "type": "dev.cellos.events.cell.lifecycle.v1.started",
        "datacontenttype": "application/json",
        "time": "2026-01-02T03:04:05.678Z",
        "data": {
            "cellId": "cell-1", "specId": "build", "runId": format!("run-{number}"),
            "ttlSeconds": 3600, "argc": 12,
            "correlation": {"platform": "ci", "externalRunId": "4711", "tenantId": "acme"},
            "specHash": "e1ad461f791818609917130c4e8ec6da8ce246e195f1cd4f3ef572858656bee9",
        },
    }))
}

fn document(number: usize) -> Result<ExecutionCellDocument, serde_json::Error> {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "cellos.io/v1",
        "kind": "ExecutionCell",
        "spec": {
            "id": format!("cell-{number}"),
            "run": { "argv": ["/usr/bin/true"] },
            "authority": {},
            "lifetime": { "ttlSeconds": 60 },
        },
    }))
}

fn streams() -> Result<Streams, std::io::Error> {
    let null = || {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(Into::into)
    };
    Ok(Streams {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    })
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn figure(measure: &str, value: f64, unit: &str) {
    println!(
        "{}",
        serde_json::json!({ "measure": measure, "value": value, "unit": unit })
    );
}
