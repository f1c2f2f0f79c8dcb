//! The loop: pick a thread, run it, match the event, repeat.
//!
//! Nothing of a thread is on the kernel stack when control comes back here: a blocked or preempted thread is data.
//! Between two rounds this CPU holds no borrowed reference, which is what the grace periods of `sync` count.

use arch::{Event, Host, Quick, Seat, Thread, stretch};
use objects::{Attention, Cpu, GuestStop, Resume};
use sync::Token;

/// Drives one CPU for ever. A function of its own, where `xtask check` begins to look for panics.
#[inline(never)]
pub fn run_loop(cpu: &mut Cpu, token: &mut Token) -> ! {
    arch::with_seat(Hands { cpu, token }, |seat| {
        loop {
            turn(seat);
        }
    })
}

/// What this CPU works with: its own state, and the proof that it is inside the kernel.
struct Hands<'a> {
    cpu: &'a mut Cpu,
    token: &'a mut Token,
}

impl Host for Hands<'_> {
    #[inline(always)]
    fn thread(&mut self) -> Option<&mut Thread> {
        let state = self.cpu.state()?;
        matches!(state.resume, Resume::User).then_some(&mut state.thread)
    }

    #[inline(always)]
    fn quick(&mut self) -> Quick {
        syscalls::quick(self.cpu, self.token)
    }

    #[inline(always)]
    fn quick_vcpu_ctrl(&mut self) -> Quick {
        syscalls::quick_poke(self.cpu, self.token)
    }
}

/// One round, by which tests step CPUs.
#[cfg(test)]
pub fn round(cpu: &mut Cpu, token: &mut Token) {
    arch::with_seat(Hands { cpu, token }, turn);
}

/// One round: settles what is due, lets the current thread run once, passes the quiescent state.
#[inline(always)]
fn turn(seat: &mut Seat<Hands<'_>>) {
    if seat.host.cpu.needs_care() {
        take_care(seat.host.cpu, seat.host.token);
    }
    let runs = step(seat);
    let Hands { cpu, token } = &mut seat.host;
    if !runs {
        return nobody(cpu, token);
    }
    cpu.quiesce(token);
}

/// Nobody runs any more: somebody else does, or this CPU idles until an interrupt.
#[cold]
#[inline(never)]
fn nobody(cpu: &mut Cpu, token: &mut Token) {
    // Before the quiescent state: a space whose domain may be freed must not stay loaded.
    cpu.choose();
    cpu.leave_space();
    cpu.quiesce(token);
    if cpu.current.is_some() || cpu.needs_care() {
        return;
    }
    // Nobody is ready: this CPU is away until an interrupt, and no grace period waits for it.
    if let Some(vector) = cpu.kernel.rcu.away(token, arch::idle) {
        on_interrupt(cpu, vector);
        cpu.answer_bell();
    }
}

/// Settles what others left, what died, what waits to be freed, and who runs next.
#[cold]
#[inline(never)]
fn take_care(cpu: &mut Cpu, token: &Token) {
    cpu.begin_care();
    if let Some(vector) = cpu.pending_interrupt.take() {
        on_interrupt(cpu, vector);
    }
    cpu.serve_flush();
    if cpu.take_inbox() {
        poll(cpu);
    }
    if cpu.has_dying() {
        cpu.bury_some(token);
        poll(cpu);
    }
    if cpu.has_garbage() {
        if cpu.may_collect() {
            // What came before, this, and what comes after: interrupts get in between.
            poll(cpu);
            collect(cpu);
            poll(cpu);
        }
    } else {
        cpu.waiting_since = 0;
    }
    if cpu.must_choose() {
        cpu.choose();
    }
    cpu.settled();
    if cpu.current.as_ref().is_some_and(|current| current.has_attention()) {
        attend(cpu, token);
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
        arch::relax();
    }
}

/// Long work lets interrupts in between its steps.
fn poll(cpu: &mut Cpu) {
    if let Some(vector) = arch::take_interrupt() {
        on_interrupt(cpu, vector);
    }
}

/// Lets the current thread do what it does next; whether there is one afterwards.
#[inline(always)]
fn step(seat: &mut Seat<Hands<'_>>) -> bool {
    let Some((event, first)) = arch::run(seat) else {
        resume(seat.host.cpu, seat.host.token);
        return seat.host.cpu.current.is_some();
    };
    let Hands { cpu, token } = &mut seat.host;
    match event {
        Event::Syscall => return syscalls::handle(cpu, token, first),
        Event::Settled => {}
        Event::Interrupt(vector) => on_interrupt(cpu, vector),
        Event::Exception { vector, error, cr2 } => {
            syscalls::raise(cpu, token, vector, error, cr2);
        }
    }
    cpu.current.is_some()
}

/// The current thread has something else to do than to run its code.
#[cold]
#[inline(never)]
fn resume(cpu: &mut Cpu, token: &Token) {
    if cpu.awaits_frees() {
        poll(cpu);
        return arch::relax();
    }
    let Some(state) = cpu.state() else { return };
    match state.resume {
        Resume::Restart => {
            state.resume = Resume::User;
            let first = state.thread.registers.rdi;
            stretch::relabel(first as u8);
            again(cpu, token, first);
            poll(cpu);
        }
        Resume::ReceiveItems | Resume::SendItems => {
            stretch::relabel(abi::Call::Call as u8);
            syscalls::move_items(cpu, token);
            poll(cpu);
        }
        Resume::Startup => {
            state.resume = Resume::User;
            raise(cpu, token, abi::cap::STARTUP as u8, 0, 0);
        }
        Resume::RaiseAgain { event, error, cr2 } => {
            state.resume = Resume::User;
            raise(cpu, token, event, error, cr2);
        }
        Resume::Guest(_) => guest(cpu),
        Resume::User => {}
        Resume::AwaitEventReply => cpu.kill_current("its exception handler died"),
        Resume::AwaitReply | Resume::Dead => cpu.kill_current("it ran without a reply"),
    }
}

/// A call that is repeated: apart from the loop, so that the calls in it exist once more and not in `resume`.
#[inline(never)]
fn again(cpu: &mut Cpu, token: &Token, first: u64) {
    syscalls::handle(cpu, token, first);
    if cpu.state().is_some_and(|state| !matches!(state.resume, Resume::Restart)) {
        cpu.forget_frees();
    }
}

/// An event that is not an exception.
#[cold]
#[inline(never)]
fn raise(cpu: &mut Cpu, token: &Token, event: u8, error: u64, cr2: u64) {
    syscalls::raise(cpu, token, event, error, cr2);
}

fn guest(cpu: &mut Cpu) {
    match cpu.run_guest() {
        GuestStop::Interrupt(vector) => on_interrupt(cpu, vector),
        GuestStop::Timer => cpu.on_timer(),
        GuestStop::Over | GuestStop::Again => {}
    }
}

/// Somebody asked something of the current thread, before it runs.
#[cold]
fn attend(cpu: &mut Cpu, token: &Token) {
    let Some(current) = &cpu.current else { return };
    if current.is_dead() {
        return cpu.kill_current("its capability was revoked");
    }
    let asked = current.clone();
    let Some(state) = cpu.state() else { return };
    let may = matches!(state.resume, Resume::User | Resume::Guest(_));
    if may && asked.take(Attention::RECALL) {
        raise(cpu, token, abi::cap::RECALL as u8, 0, 0);
    } else {
        // It finishes what it is about first.
        cpu.tell(cpu.id);
    }
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
