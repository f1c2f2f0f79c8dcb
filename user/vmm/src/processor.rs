//! The thread of one virtual processor: run, handle the exit, run.
use crate::shared::{Inside, Shared, Who};
use crate::streams;
use crate::told;
use abi::exit::ExitReason;
use abi::utcb::StatePage;
use abi::{Mtd, Status};
use alloc::format;
use core::sync::atomic::Ordering;
use devices::board::Board;
use refusal::Vendor;
use rt::instructions::rdtsc;
use rt::vcpu::Vcpu;
use vmm::control::End;
use vmm::exits::{self, Next};
use vmm::inject;
use vmm::instruction;
use vmm::machine::{Activity, Cpu, Ended, Interrupts, Now};
use vmm::report;
use vmm::start;
use vmm::status;

/// How the first processor begins.
#[derive(Clone, Copy)]
pub enum Entry {
    /// At Linux's 64-bit entry.
    Linux(u64),
    /// At flat 32-bit code.
    Flat(u64),
    /// At a multiboot kernel's entry.
    Multiboot(u32),
    /// Not before a start-up message.
    Wait,
}

/// How often in a millisecond a device gets its turn while it has something to do.
const TURNS_PER_MS: u64 = 10;

/// What comes next, decided under the lock.
enum Step {
    /// Enter the guest, which must leave at this TSC at the latest.
    Run(Mtd, Option<u64>),
    /// Sleep until this TSC value, or until somebody kicks.
    Sleep(Option<u64>),
    End,
    Rest,
}

/// The body of the thread.
pub fn run(shared: &'static Shared, id: usize, host_cpu: u16, entry: Entry) {
    let mut vcpu = match Vcpu::new(host_cpu) {
        Ok(vcpu) => vcpu,
        Err(status) => return give_up(shared, id, "cannot be made", status),
    };
    let Some(line) = shared.lines.get(id) else { return };
    line.vcpu.store(vcpu.selector(), Ordering::Release);
    loop {
        let generation = shared.with(Who::Other, |inside| inside.generation);
        if let Err((what, status)) = live(shared, id, &mut vcpu, entry) {
            return give_up(shared, id, what, status);
        }
        shared.with(Who::Other, |inside| inside.parked += 1);
        loop {
            let (now, rests) =
                shared.with(Who::Other, |inside| (inside.generation, inside.rests(id)));
            if rests {
                streams::rest();
            }
            if now != generation {
                break;
            }
            let _ = line.sleep.down_all();
        }
    }
}

/// One life of the processor: from its start to the guest's end.
fn live(
    shared: &'static Shared,
    id: usize,
    vcpu: &mut Vcpu,
    entry: Entry,
) -> Result<(), (&'static str, Status)> {
    let sleep = shared.lines.get(id).map_or(0, |line| line.sleep.selector());
    let me = Who::Processor(id);
    let mut cpu = Cpu::new(id);
    vcpu.state().tsc_off = shared.clock.zero().wrapping_neg();
    vcpu.state().tsc_aux = id as u32;
    // The TSC at which the last exit came, until it has been handled.
    let mut came: Option<u64> = None;
    // What the exit before took, and for which reason it was.
    let mut took = None;
    let begun = begin(shared, vcpu.state(), entry);
    let mut changed = begun.ok_or(("cannot start", Status::BadPar))?;
    loop {
        let step = shared.with(me, |inside| {
            if let Some((reason, ticks)) = took.take() {
                status::spent(told::page(), reason, ticks);
            }
            let now = shared.now();
            inside.machine.board.advance(now.ns);
            if came.is_some() {
                changed = after(inside, &mut cpu, vcpu.state(), now);
                inside.flush();
            }
            let step = prepare(inside, shared, &mut cpu, vcpu.state(), &mut changed, now);
            let runs = matches!(step, Step::Run(..));
            inside.note(id, !runs);
            if !runs {
                inside.hurry();
            }
            step
        });
        if let Some(since) = came.take() {
            took = Some((vcpu.state().exit_reason, rdtsc().wrapping_sub(since)));
        }
        match step {
            Step::Run(mtd, deadline) => {
                // Others may have had this processor since the lock was released.
                let left = |tsc: u64| tsc.saturating_sub(rdtsc()).max(1);
                vcpu.state().tsc_timeout = deadline.map_or(u64::MAX, left);
                vcpu.run(mtd).map_err(|status| ("cannot be run", status))?;
                came = Some(rdtsc());
            }
            Step::Sleep(deadline) => {
                let _ = rt::calls::sm_down_all(sleep, deadline.unwrap_or(0));
            }
            Step::End => return Ok(()),
            Step::Rest => streams::rest(),
        }
    }
}

/// Sets the state that the first entry loads.
fn begin(shared: &Shared, page: &mut StatePage, entry: Entry) -> Option<Mtd> {
    match entry {
        Entry::Linux(address) => {
            shared
                .with(Who::Other, |inside| start::linux(page, &inside.machine.memory, address))
                .ok()?;
            Some(start::ALL)
        }
        Entry::Flat(address) => {
            start::flat32(page, address);
            Some(start::ALL)
        }
        Entry::Multiboot(address) => {
            start::multiboot(page, address);
            Some(start::ALL)
        }
        Entry::Wait => Some(Mtd::NONE),
    }
}

/// Everything between two entries that needs the machine.
fn prepare(
    inside: &mut Inside,
    shared: &Shared,
    cpu: &mut Cpu,
    page: &mut StatePage,
    changed: &mut Mtd,
    now: Now,
) -> Step {
    if inside.machine.ended.is_some() {
        return Step::End;
    }
    if inside.rests(cpu.id) {
        return Step::Rest;
    }
    if inside.held_back {
        return Step::Sleep(None);
    }
    if inside.asked.get_mut(cpu.id).is_some_and(core::mem::take) {
        let interrupt = inside.machine.board.interrupt_for(cpu.id);
        let nmi = inside.machine.mailboxes.get(cpu.id).is_some_and(|mail| mail.nmi);
        let pending = (interrupt.map(|interrupt| format!("{interrupt:?}")), nmi);
        inside.machine.messages.extend(report::present(cpu, page, pending));
    }
    inside.machine.serve_virtio();
    inside.machine.drain();
    read_mail(inside, cpu, page, changed);
    let mut deadline = inside.machine.board.next_deadline().map(|ns| shared.clock.tsc_at(ns));
    if inside.machine.virtio.due() {
        // A device has more to do than one turn: the next comes soon.
        let soon = now.tsc.saturating_add(shared.clock.ticks_from_ms(1) / TURNS_PER_MS);
        deadline = Some(deadline.map_or(soon, |tsc| tsc.min(soon)));
    }
    if let Some(wake) = inside.wake_at() {
        deadline = Some(deadline.map_or(wake, |tsc| tsc.min(wake)));
    }
    let machine = &mut inside.machine;
    if cpu.activity == Activity::Halted {
        let nmi = machine.mailboxes.get(cpu.id).is_some_and(|mail| mail.nmi);
        let interrupt = machine.board.has_pending(cpu.id) && inject::open(page);
        if nmi || interrupt {
            cpu.activity = Activity::Running;
        }
    }
    if cpu.activity != Activity::Running {
        return Step::Sleep(deadline.map(|tsc| tsc.max(1)));
    }
    inject::before_entry(page, &mut Interrupts { vm: machine, cpu: cpu.id });
    let mtd = *changed | Mtd::INJ | Mtd::TSC_TIMEOUT;
    *changed = Mtd::NONE;
    Step::Run(mtd, deadline)
}

/// INIT and start-up messages (Intel SDM vol. 3, 10.4.3): INIT always, start-up only after it.
fn read_mail(inside: &mut Inside, cpu: &mut Cpu, page: &mut StatePage, changed: &mut Mtd) {
    let Some(mail) = inside.machine.mailboxes.get_mut(cpu.id) else { return };
    if core::mem::take(&mut mail.init) {
        cpu.activity = Activity::WaitForStartUp;
    }
    if let Some(vector) = mail.start_up.take()
        && cpu.activity == Activity::WaitForStartUp
    {
        let signature = (inside.machine.host_cpuid)(1, 0).eax;
        start::start_up_ipi(page, vector, signature);
        cpu.activity = Activity::Running;
        *changed = start::ALL;
    }
}

/// Handles the exit; a guest that cannot go on is reported and ended.
fn after(inside: &mut Inside, cpu: &mut Cpu, page: &mut StatePage, now: Now) -> Mtd {
    status::count(told::page(), page.exit_reason);
    #[cfg(feature = "crash")]
    crate::crash::on(page);
    let why = match exits::handle(cpu, page, &mut inside.machine, now) {
        Next::Resume(changed) => return changed,
        Next::Stop(why) => why,
    };
    let mut code = [0; instruction::LONGEST];
    let count = instruction::fetch(page, &inside.machine.memory, &mut code);
    let code = code.get(..count).unwrap_or_default();
    let lines = report::report(&why, cpu.id as u32, page, code, &cpu.history);
    inside.machine.messages.extend(lines);
    if ExitReason::from_word(page.exit_reason) == ExitReason::InvalidState {
        let vendor = if inside.machine.vmx { Vendor::Vmx } else { Vendor::Svm };
        let bits = ((inside.machine.host_cpuid)(0x8000_0008, 0).eax & 0xff) as u8;
        let broken = refusal::explain(vendor, page, bits);
        inside.machine.messages.extend(broken.iter().map(|rule| format!("  {rule}")));
    }
    inside.machine.end(Ended::Stopped);
    Mtd::NONE
}

fn give_up(shared: &Shared, id: usize, what: &str, status: Status) {
    rt::println!("vCPU {id} {what}: {status}");
    shared.with(Who::Other, |inside| {
        inside.machine.end(Ended::Stopped);
        // There is nothing left of it that could be woken.
        if let Some(rests) = inside.resting.get_mut(id) {
            *rests = true;
        }
    });
}

/// Waits for the guest's end. A reset guest begins again with what `load` makes: its image and
/// tables in memory anew, and a board. Any other end is told and final.
pub fn watch(shared: &'static Shared, name: &str, load: impl Fn() -> Option<Board>) {
    loop {
        let _ = shared.ended.down();
        let mut ended = None;
        while ended.is_none() {
            ended = look(shared, |inside| {
                inside.flush();
                inside.machine.ended.filter(|_| !inside.output_waits())
            });
            rt::sync::sleep_us(1000);
        }
        let (words, end) = match ended {
            Some(Ended::PowerOff) => ("powered off", End::PoweredOff),
            Some(Ended::Reset) => ("reset", End::Reset),
            Some(Ended::Stopped) | None => ("stopped", End::Stopped),
        };
        rt::println!("{name} {words}");
        if end != End::Reset || !begin_again(shared, &load) {
            streams::report_end(end);
            return shared.with(Who::Other, |inside| inside.watching = false);
        }
        shared.with(Who::Other, |inside| inside.watching = false);
    }
}

/// A look of the watcher, which comes to rest if the monitor is to.
fn look<T>(shared: &Shared, body: impl FnOnce(&mut Inside) -> T) -> T {
    let (over, answer) = shared.with(Who::Other, |inside| {
        inside.watching = !inside.over;
        (inside.over, body(inside))
    });
    if over {
        streams::rest();
    }
    answer
}

/// Starts a reset guest again once all its processors have stopped.
fn begin_again(shared: &'static Shared, load: &impl Fn() -> Option<Board>) -> bool {
    while look(shared, |inside| inside.parked) < shared.lines.len() {
        rt::sync::sleep_us(1000);
    }
    let Some(board) = load() else { return false };
    shared.with(Who::Other, |inside| inside.begin_again(board));
    for line in &shared.lines {
        let _ = line.sleep.up();
    }
    true
}
