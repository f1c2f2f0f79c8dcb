//! The loop: pick a thread, run it, match the event, repeat.
//!
//! Nothing of a thread is on the kernel stack when control comes back here: a blocked or preempted thread is data.
//! Between two rounds this CPU holds no borrowed reference, which is what the grace periods of `sync` count.

use arch::Event;
use objects::{Attention, Cpu, GuestStop, Resume};
use sync::Token;

/// Drives one CPU for ever. A function of its own, where `xtask check` begins to look for panics.
#[inline(never)]
pub fn run_loop(mut cpu: Cpu, mut token: Token) -> ! {
    loop {
        token = round(&mut cpu, token);
    }
}

/// One round: settles what is due, lets the current thread run once, passes the quiescent state. Tests step CPUs by it.
#[inline(always)]
pub fn round(cpu: &mut Cpu, mut token: Token) -> Token {
    if needs_care(cpu) {
        take_care(cpu, &token);
    }
    if cpu.current.is_some() {
        step(cpu, &token);
    }
    if cpu.current.is_none() {
        // Before the quiescent state: a space whose domain may be freed must not stay loaded.
        cpu.choose();
        cpu.leave_space();
    }
    let rcu = cpu.kernel.rcu;
    rcu.quiesce(&mut token);
    if cpu.current.is_none() && !needs_care(cpu) {
        // Nobody is ready: this CPU is away until an interrupt, and no grace period waits for it.
        let id = rcu.leave(token);
        let woken_by = arch::idle();
        token = loop {
            if let Some(token) = rcu.join(id) {
                break token;
            }
        };
        if let Some(vector) = woken_by {
            on_interrupt(cpu, vector);
        }
    }
    token
}

/// Whether something else than the current thread wants attention.
#[inline(always)]
fn needs_care(cpu: &mut Cpu) -> bool {
    let mine = cpu.kernel.remotes.get(cpu.id);
    cpu.reschedule | cpu.has_dying() | cpu.garbage_due() || mine.is_some_and(|mine| mine.has_work())
}

/// Settles what others left, what died, what waits to be freed, and who runs next.
#[cold]
fn take_care(cpu: &mut Cpu, token: &Token) {
    if let Some(vector) = cpu.pending_interrupt.take() {
        on_interrupt(cpu, vector);
    }
    cpu.serve_flush();
    cpu.take_inbox();
    if cpu.has_dying() {
        cpu.bury_some(token);
        poll(cpu);
    }
    if cpu.has_garbage() {
        if cpu.may_collect() {
            collect(cpu);
        }
    } else {
        cpu.waiting_since = 0;
    }
    if cpu.reschedule {
        cpu.choose();
    }
}

/// Frees what can be freed. Who keeps us waiting for 10 ms is interrupted once; an idle CPU does not wait that long.
fn collect(cpu: &mut Cpu) {
    let waits = cpu.release_memory();
    if !waits {
        cpu.waiting_since = 0;
        return;
    }
    let now = arch::now();
    if cpu.waiting_since == 0 {
        cpu.waiting_since = now;
    }
    if cpu.current.is_none() || now.wrapping_sub(cpu.waiting_since) > arch::tsc_khz() * 10 {
        cpu.hurry_others();
    }
    if cpu.current.is_none() {
        poll(cpu);
        arch::relax();
    }
}

/// Long work lets interrupts in between its steps.
fn poll(cpu: &mut Cpu) {
    if let Some(vector) = arch::take_interrupt() {
        on_interrupt(cpu, vector);
    }
}

/// Lets the current thread do what it does next.
#[inline(always)]
fn step(cpu: &mut Cpu, token: &Token) {
    let Some(current) = &cpu.current else { return };
    if current.has_attention() && attend(cpu, token) {
        return;
    }
    let Some(state) = cpu.state() else { return };
    if !matches!(state.resume, Resume::User) {
        return resume(cpu, token);
    }
    match arch::run(&mut state.thread) {
        Event::Syscall => syscalls::handle(cpu, token),
        Event::Interrupt(vector) => on_interrupt(cpu, vector),
        Event::Exception { vector, error, cr2 } => {
            syscalls::raise(cpu, token, vector, error, cr2);
        }
    }
}

/// The current thread has something else to do than to run its code.
fn resume(cpu: &mut Cpu, token: &Token) {
    let Some(state) = cpu.state() else { return };
    match state.resume {
        Resume::Restart => {
            state.resume = Resume::User;
            syscalls::handle(cpu, token);
            poll(cpu);
        }
        Resume::ReceiveItems | Resume::SendItems => {
            syscalls::move_items(cpu, token);
            poll(cpu);
        }
        Resume::Startup => {
            state.resume = Resume::User;
            syscalls::raise(cpu, token, abi::cap::STARTUP as u8, 0, 0);
        }
        Resume::RaiseAgain { event, error, cr2 } => {
            state.resume = Resume::User;
            syscalls::raise(cpu, token, event, error, cr2);
        }
        Resume::Guest(_) => guest(cpu),
        Resume::User => {}
        Resume::AwaitReply | Resume::AwaitEventReply | Resume::Dead => {
            cpu.kill_current("it ran without a reply");
        }
    }
}

fn guest(cpu: &mut Cpu) {
    match cpu.run_guest() {
        GuestStop::Interrupt(vector) => on_interrupt(cpu, vector),
        GuestStop::Timer => cpu.on_timer(),
        GuestStop::Over | GuestStop::Again => {}
    }
}

/// Somebody asked something of the current thread; whether that settles this round.
#[cold]
fn attend(cpu: &mut Cpu, token: &Token) -> bool {
    let Some(current) = &cpu.current else { return true };
    if current.is_dead() {
        cpu.kill_current("its capability was revoked");
        return true;
    }
    let ready = current.clone();
    let Some(state) = cpu.state() else { return true };
    let may = matches!(state.resume, Resume::User | Resume::Guest(_));
    if may && ready.take(Attention::RECALL) {
        syscalls::raise(cpu, token, abi::cap::RECALL as u8, 0, 0);
        return true;
    }
    false
}

/// A host interrupt, already acknowledged by the processor.
fn on_interrupt(cpu: &mut Cpu, vector: u8) {
    use arch::vector as v;
    match vector {
        v::SPURIOUS => return,
        v::TIMER => cpu.on_timer(),
        v::SHOOTDOWN => cpu.serve_flush(),
        v::RESCHEDULE => {}
        v::USER_FIRST..v::TIMER => cpu.deliver_interrupt(vector),
        _ => {}
    }
    arch::end_of_interrupt();
}
