//! The story of a stopped guest: where it was, why it stopped, its last exits.
use crate::machine::{Activity, Cpu};
use crate::registers;
use abi::exit::ExitReason;
use abi::utcb::StatePage;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Exits that are remembered.
pub const EXITS: usize = 64;

/// One exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Reason word.
    pub reason: u32,
    /// Guest RIP.
    pub rip: u64,
    /// First qualification word.
    pub qualification: u64,
    /// Equal exits in a row (same reason and RIP).
    pub count: u32,
}

/// The last exits of a virtual processor.
#[derive(Clone, Debug)]
pub struct History {
    ring: [Exit; EXITS],
    next: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { ring: [Exit::default(); EXITS], next: 0 }
    }
}

impl History {
    /// Remembers the exit a state page shows.
    pub fn note(&mut self, page: &StatePage) {
        let last = (self.next + EXITS - 1) % EXITS;
        if let Some(exit) = self.ring.get_mut(last)
            && exit.count > 0
            && exit.reason == page.exit_reason
            && exit.rip == page.rip
        {
            exit.count = exit.count.saturating_add(1);
            return;
        }
        if let Some(exit) = self.ring.get_mut(self.next) {
            *exit = Exit {
                reason: page.exit_reason,
                rip: page.rip,
                qualification: page.qual[0],
                count: 1,
            };
        }
        self.next = (self.next + 1) % EXITS;
    }

    /// Oldest first.
    pub fn exits(&self) -> impl Iterator<Item = &Exit> {
        let (new, old) = self.ring.split_at(self.next);
        old.iter().chain(new).filter(|exit| exit.count > 0)
    }
}

/// The report, line by line. `code` holds the bytes at RIP.
pub fn report(
    why: &str,
    vcpu: u32,
    page: &StatePage,
    code: &[u8],
    history: &History,
) -> Vec<String> {
    let reason = ExitReason::from_word(page.exit_reason);
    let mut lines = Vec::new();
    lines.push(format!("stopped: {why} (vCPU {vcpu}, RIP {:#x}, exit {reason:?})", page.rip));
    lines.push(format!(
        "  qualification {:#x} {:#x}, interrupted event {:#x}",
        page.qual[0], page.qual[1], page.vect_info
    ));
    let names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
    for (row, chunk) in names.chunks(4).enumerate() {
        let mut line = String::from(" ");
        for (column, name) in chunk.iter().enumerate() {
            let number = (row * 4 + column) as u8;
            line += &format!(" {name} {:016x}", registers::get(page, number));
        }
        lines.push(line);
    }
    lines.push(format!(
        "  cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x} rflags {:x}",
        page.cr0, page.cr2, page.cr3, page.cr4, page.efer, page.rflags
    ));
    lines.push(format!(
        "  cs {:x} base {:x} limit {:x} ar {:x}, ss {:x}, idt {:x}+{:x}, gdt {:x}+{:x}",
        page.cs.selector,
        page.cs.base,
        page.cs.limit,
        page.cs.ar,
        page.ss.selector,
        page.idtr.base,
        page.idtr.limit,
        page.gdtr.base,
        page.gdtr.limit
    ));
    let mut bytes = String::from("  bytes at RIP:");
    for byte in code {
        bytes += &format!(" {byte:02x}");
    }
    lines.push(bytes);
    lines.push("  last exits, oldest first (reason rip qualification count):".into());
    for exit in history.exits() {
        let reason = ExitReason::from_word(exit.reason);
        lines.push(format!(
            "    {reason:?} {:#x} {:#x} {}",
            exit.rip, exit.qualification, exit.count
        ));
    }
    lines
}

/// Exits that [`present`] tells of.
const RECENT: usize = 8;

/// What a virtual processor does now: the interrupt that waits, if any, and whether an NMI does.
pub fn present(cpu: &Cpu, page: &StatePage, pending: (Option<String>, bool)) -> Vec<String> {
    let id = cpu.id;
    if cpu.activity == Activity::WaitForStartUp {
        return vec![format!("  vCPU {id} waits for its start")];
    }
    let does = if cpu.activity == Activity::Halted { "sleeps" } else { "runs" };
    let interrupt = pending.0.unwrap_or_else(|| "no interrupt".into());
    let nmi = if pending.1 { ", an NMI" } else { "" };
    let mut lines = Vec::new();
    lines.push(format!(
        "  vCPU {id} {does} at RIP {:#x}, RFLAGS {:#x}; pending: {interrupt}{nmi}",
        page.rip, page.rflags
    ));
    let count = cpu.history.exits().count();
    for exit in cpu.history.exits().skip(count.saturating_sub(RECENT)) {
        let reason = ExitReason::from_word(exit.reason);
        lines.push(format!(
            "    {reason:?} {:#x} {:#x} {}",
            exit.rip, exit.qualification, exit.count
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_and_counts_repeats() {
        let mut history = History::default();
        let mut page = Box::new(StatePage::ZERO);
        for round in 0..100u32 {
            page.exit_reason = round % 50;
            page.rip = u64::from(round);
            history.note(&page);
            history.note(&page);
        }
        let exits: Vec<_> = history.exits().collect();
        assert_eq!(exits.len(), EXITS);
        assert_eq!((exits[0].rip, exits[63].rip, exits[63].count), (36, 99, 2));
        let lines = report("triple fault", 1, &page, &[0x0f, 0x0b], &history);
        assert!(lines[0].contains("triple fault") && lines[0].contains("0x63"));
        assert!(lines.iter().any(|line| line.contains("0f 0b")));
    }

    #[test]
    fn a_processor_tells_where_it_is_and_what_waits() {
        let mut cpu = Cpu::new(0);
        let mut page = Box::new(StatePage::ZERO);
        for rip in 0..20 {
            (page.exit_reason, page.rip) = (12, rip);
            cpu.history.note(&page);
        }
        page.rflags = 2;
        let lines = present(&cpu, &page, (Some("Vector(48)".into()), true));
        assert_eq!(lines[0], "  vCPU 0 runs at RIP 0x13, RFLAGS 0x2; pending: Vector(48), an NMI");
        assert_eq!((lines.len(), lines[8].as_str()), (9, "    Hlt 0x13 0x0 1"));
        cpu.activity = Activity::Halted;
        assert!(present(&cpu, &page, (None, false))[0].ends_with("pending: no interrupt"));
        assert_eq!(present(&Cpu::new(1), &page, (None, false)), ["  vCPU 1 waits for its start"]);
    }
}
