//! Lines of `ps`, `exits` and `irq`.
use abi::hip::{Cpu, CpuDesc};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use vmm::status::{self, Kind, SLOTS, State, Thread};

/// What stands above the lines of threads.
pub fn threads_head() -> String {
    thread_row("OWNER", "THREAD", "STATE", "CPU", "PRIO", "SLICE us", "TIME us")
}

/// A line about a thread that is known by these.
pub fn thread(owner: &str, what: &str, state: &str, thread: &Thread) -> String {
    let [cpu, priority] =
        [u64::from(thread.cpu), u64::from(thread.priority)].map(|n| format!("{n}"));
    let [slice, time] = [u64::from(thread.slice_us), thread.time_us].map(|n| format!("{n}"));
    thread_row(owner, what, state, &cpu, &priority, &slice, &time)
}

fn thread_row(
    owner: &str,
    what: &str,
    state: &str,
    cpu: &str,
    priority: &str,
    slice: &str,
    time: &str,
) -> String {
    format!("{owner:15} {what:9} {state:8} {cpu:>3} {priority:>4} {slice:>9} {time:>12}")
}

/// The lines about a monitor's threads, of a guest in a state with this name, held or not.
pub fn threads(owner: &str, is_held: bool, threads: impl Iterator<Item = Thread>) -> Vec<String> {
    let mut processors = 0..;
    let line = |told: Thread| {
        let (what, state) = match (told.kind, told.state) {
            (Kind::Streams, _) => ("streams".into(), "READY"),
            (Kind::Watcher, _) => ("watcher".into(), "waits"),
            (Kind::Processor, state) => {
                let number: u32 = processors.next().unwrap_or(0);
                let state = match state {
                    _ if is_held => "PAUSED",
                    State::Waits => "READY",
                    State::Runs => "RUNNING",
                };
                (format!("vCPU {number}"), state)
            }
        };
        thread(owner, &what, state, &told)
    };
    threads.map(line).collect()
}

/// A line of `cpu`: a processor of the machine by its number in system calls, and the guests that have virtual
/// processors there.
pub fn processor<'a>(cpu: &Cpu, guests: impl Iterator<Item = &'a str>) -> String {
    let CpuDesc { package, core, thread, acpi_id, apic_id, .. } = cpu.desc;
    let number = cpu.number;
    let mut line = format!(
        "CPU {number}: package {package}, core {core}, thread {thread}, ACPI id {acpi_id}, LAPIC id {apic_id}"
    );
    for name in guests {
        line += "; ";
        line += name;
    }
    line
}

/// The lines of `exits`: each reason that came, how often, how often in a second of the last `us` microseconds, and how
/// many ticks each took its monitor on average.
pub fn exits(
    now: &[u64; SLOTS],
    before: &[u64; SLOTS],
    us: u64,
    times: &[u64; SLOTS],
) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut sum, mut rates) = (0_u64, 0_u64);
    for (slot, (now, before)) in now.iter().zip(before).enumerate().filter(|(_, (n, _))| **n != 0) {
        let since = u128::from(now.wrapping_sub(*before)) * 1_000_000 / u128::from(us.max(1));
        let rate = u64::try_from(since).unwrap_or(u64::MAX);
        let name = status::reason(slot).map_or("other".into(), |reason| format!("{reason:?}"));
        let mut line = format!("{name:20} {now:>12} {rate:>10}/s");
        if let Some(each) = times.get(slot).filter(|time| **time != 0) {
            line += &format!(" {:>9} ticks each", each / now);
        }
        lines.push(line);
        (sum, rates) = (sum.saturating_add(*now), rates.saturating_add(rate));
    }
    lines.push(format!("{:20} {sum:>12} {rates:>10}/s", "all"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_stand_in_columns() {
        let told = |kind, state| Thread {
            kind,
            state,
            priority: 5,
            cpu: 1,
            slice_us: 10_000,
            time_us: 1_234_567,
        };
        let all = [
            told(Kind::Streams, State::Runs),
            told(Kind::Processor, State::Runs),
            told(Kind::Processor, State::Waits),
        ];
        let lines = threads("linux", false, all.into_iter());
        assert_eq!(
            [threads_head()].into_iter().chain(lines).collect::<Vec<_>>(),
            [
                "OWNER           THREAD    STATE    CPU PRIO  SLICE us      TIME us",
                "linux           streams   READY      1    5     10000      1234567",
                "linux           vCPU 0    RUNNING    1    5     10000      1234567",
                "linux           vCPU 1    READY      1    5     10000      1234567",
            ]
        );
        let held = threads("linux", true, all.into_iter());
        assert!(held[1].contains("PAUSED") && held[2].contains("PAUSED"));
    }

    #[test]
    fn a_processor_names_its_guests() {
        let desc = CpuDesc { core: 1, apic_id: 2, acpi_id: 3, ..CpuDesc::default() };
        let cpu = Cpu { number: 1, desc };
        assert_eq!(
            processor(&cpu, ["left", "right"].into_iter()),
            "CPU 1: package 0, core 1, thread 0, ACPI id 3, LAPIC id 2; left; right"
        );
    }

    #[test]
    fn exits_have_counts_and_rates() {
        let mut now = [0; SLOTS];
        let mut before = [0; SLOTS];
        let mut times = [0; SLOTS];
        times[10] = 600_300;
        (now[10], before[10]) = (500, 100);
        now[SLOTS - 1] = 3;
        assert_eq!(
            exits(&now, &before, 2_000_000, &times),
            [
                "Cpuid                         500        200/s      1200 ticks each",
                "other                           3          1/s",
                "all                           503        201/s",
            ]
        );
        // A monitor may write what it likes.
        assert_eq!(exits(&[u64::MAX; SLOTS], &[0; SLOTS], 0, &[0; SLOTS]).len(), SLOTS + 1);
    }
}
