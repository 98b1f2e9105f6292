//! Thousands of runs, each from a number.
//!
//! `FAULTS=n` says how many faults there are to be, `SEED=n` runs one seed and tells it, `ONLY=1,2,3` with just these of
//! its faults. What is printed at the end is the account of the run.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use keddah::agent::decide::Reason;
use nix::time::{ClockId, clock_gettime};

use crate::oracle::Oracle;
use crate::storm::{Only, run, smallest};

/// How many faults a plain test run takes.
const FAULTS: u64 = 20_000;

/// How many lines before the end of a failing run are told.
const TOLD: usize = 60;

/// How many failing seeds are looked for.
const FAILURES: usize = 8;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")))
}

/// Everything that the seeds add up to.
#[derive(Default)]
struct Account {
    total: Oracle,
    seeds: u64,
    faults: u64,
    simulated_ms: u64,
    failed: Vec<u64>,
}

impl Account {
    fn add(&mut self, run: &crate::storm::Run) {
        let Oracle { reasons, looked_at, faults, gate_refusals, handovers, elections, promotions, .. } =
            &run.oracle;
        self.seeds += 1;
        self.simulated_ms += run.simulated_ms;
        self.faults += run.faults.len() as u64;
        self.total.reasons.extend(reasons);
        self.total.gate_refusals += gate_refusals;
        self.total.handovers += handovers;
        self.total.elections += elections;
        self.total.promotions += promotions;
        for (name, count) in looked_at {
            *self.total.looked_at.entry(name).or_default() += count;
        }
        for (name, count) in faults {
            *self.total.faults.entry(name).or_default() += count;
        }
    }

    fn tell(&self, cpu_s: f64) {
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        println!(
            "{} faults in {} seeds, {hours:.1} cluster-hours, {cpu_s:.0} s of CPU",
            self.faults, self.seeds
        );
        println!(
            "per second of CPU: {:.0} faults, {:.2} cluster-hours",
            self.faults as f64 / cpu_s,
            hours / cpu_s
        );
        println!("faults and what ended them:");
        self.total.faults.iter().for_each(|(name, count)| println!("{count:>10}  {name}"));
        println!("looks at invariants:");
        self.total.looked_at.iter().for_each(|(name, count)| println!("{count:>10}  {name}"));
        let Oracle { elections, handovers, promotions, gate_refusals, .. } = &self.total;
        println!("{elections} elections, {handovers} hand-overs, {promotions} promotions");
        println!("{gate_refusals} times the guard refused what its agent held for allowed");
        println!("{} of {} reasons reached by seeds", self.total.reasons.len(), Reason::ALL.len());
    }
}

fn cpu_seconds() -> f64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0.0, |time| std::time::Duration::from(time).as_secs_f64())
}

fn one(seed: u64) {
    let only: Only = std::env::var("ONLY")
        .ok()
        .map(|text| text.split(',').map(|n| n.parse().expect("ONLY is numbers with commas")).collect());
    let run = run(seed, &only);
    println!("{}", run.trace.join("\n"));
    assert!(!run.failed(), "seed {seed}: {:#?}", run.oracle.violations);
}

/// Tells a failing seed in its smallest form.
fn tell_failure(seed: u64) {
    let small = smallest(seed, run(seed, &None));
    let only: Vec<String> = small.faults.iter().map(u32::to_string).collect();
    println!("\nSEED={seed} ONLY={} cargo test --test sim -- seeds --nocapture", only.join(","));
    println!("{}", small.oracle.violations.join("\n"));
    let from = small.trace.len().saturating_sub(TOLD);
    small.trace[from..].iter().for_each(|line| println!("  {line}"));
}

#[test]
fn seeds() {
    if let Some(seed) = number("SEED") {
        return one(seed);
    }
    let wanted = number("FAULTS").unwrap_or(FAULTS);
    let next = AtomicU64::new(0);
    let account = Mutex::new(Account::default());
    let began = cpu_seconds();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = {
                        let account = account.lock().unwrap();
                        account.faults >= wanted || account.failed.len() >= FAILURES
                    };
                    if enough {
                        return;
                    }
                    let run = run(seed, &None);
                    let mut account = account.lock().unwrap();
                    account.add(&run);
                    if run.failed() {
                        account.failed.push(seed);
                    }
                }
            });
        }
    });
    let account = account.into_inner().unwrap();
    account.tell(cpu_seconds() - began);
    account.failed.iter().for_each(|seed| tell_failure(*seed));
    assert!(account.failed.is_empty(), "these seeds failed: {:?}", account.failed);
    // Fewer faults than a plain run has reach fewer reasons.
    if wanted < FAULTS {
        return;
    }
    let mut reached: BTreeSet<&str> = account.total.reasons;
    reached.extend(crate::stories::reasons());
    let all = Reason::ALL.iter().map(|(code, _)| *code);
    let missing: Vec<&str> = all.filter(|code| !reached.contains(code)).collect();
    assert!(missing.is_empty(), "no seed and no story reaches: {}", missing.join(", "));
}

/// A seed is a run: whoever repeats it sees the same, to the last line.
#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3, 19] {
        assert_eq!(run(seed, &None).trace, run(seed, &None).trace, "seed {seed}");
    }
}
