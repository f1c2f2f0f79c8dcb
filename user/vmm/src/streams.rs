//! The streams between this monitor and the root task: guest bytes, keys, messages.
use crate::pages::words;
use crate::shared::{Shared, Who};
use crate::told;
use core::sync::atomic::Ordering;
use rt::instructions::rdtsc;
use rt::sync::Semaphore;
use vmm::channel::Channel;
use vmm::control::{self, End, Order};

/// Milliseconds between two attempts to hand over what did not fit.
const RETRY_MS: u64 = 2;

/// A stream by its place.
pub fn channel(address: u64) -> Option<Channel<'static>> {
    Channel::new(words(address, abi::PAGE_SIZE))
}

/// Tells the root task that there is something to read.
pub fn wake_root() {
    let _ = rt::calls::sm_up(control::SEL_WAKE_ROOT);
}

/// Messages of this program, for `rt::println!`.
pub struct Messages;

/// The one instance.
pub static MESSAGES: Messages = Messages;

impl rt::log::Sink for Messages {
    fn write(&self, text: &str) {
        if let Some(channel) = channel(control::MESSAGES) {
            channel.write(text.as_bytes());
            if text.ends_with('\n') {
                wake_root();
            }
        }
    }
}

/// Tells the root task how the guest ended.
pub fn report_end(end: End) {
    if let Some(channel) = channel(control::MESSAGES) {
        channel.set_status(end.word());
    }
    wake_root();
}

/// Tells the root task that a thread of this program has stopped.
pub fn report_crash() {
    report_end(End::Crashed);
}

/// Ends a thread: it sleeps on what nobody ever counts up.
pub fn rest() -> ! {
    loop {
        match Semaphore::new(0) {
            Ok(never) => {
                let _ = never.down();
            }
            // Without memory for it, the next best.
            Err(_) => rt::sync::sleep_us(u64::from(u32::MAX)),
        }
    }
}

/// Does what the root task orders; true if some thread has yet to follow.
fn obey(shared: &Shared, keys: Channel<'_>) -> bool {
    let word = words(control::CONTROL, abi::PAGE_SIZE).get(control::ORDER_WORD);
    let order = Order::from_word(word.map_or(0, |word| word.load(Ordering::Acquire)));
    let done = shared.with(Who::Other, |inside| match order {
        Order::Run | Order::Hold => inside.obey(order == Order::Hold),
        Order::End => inside.finish(),
    });
    if done && order == Order::End {
        keys.set_status(order.word());
        rest();
    }
    if done && keys.status() != order.word() {
        if order == Order::Run {
            shared.wake_all();
        }
        keys.set_status(order.word());
        wake_root();
    }
    !done
}

/// Looks whether the guest is silent for too long; the TSC at which to look again, 0 for never.
fn listen(shared: &Shared) -> u64 {
    let seconds = shared.silent_s;
    if seconds == 0 {
        return 0;
    }
    let limit = shared.clock.ticks_from_ms(u64::from(seconds) * 1000);
    shared.with(Who::Other, |inside| inside.listen(limit, seconds))
}

/// Hands keys to the guest for ever, and output that found the stream full; holds it and lets it go.
pub fn serve(shared: &'static Shared) {
    let Some(keys) = channel(control::GUEST_IN) else { return };
    let wake = Semaphore::at(control::SEL_WAKE_MONITOR);
    let mut buffer = [0u8; 64];
    let mut held = 0;
    loop {
        if held == 0 {
            held = keys.read(&mut buffer);
        }
        let more = shared.with(Who::Other, |vm| {
            let taken = vm.machine.receive(buffer.get(..held).unwrap_or_default());
            buffer.copy_within(taken.min(held)..held, 0);
            held -= taken.min(held);
            vm.flush();
            held > 0 || vm.output_waits()
        });
        let waits = obey(shared, keys);
        told::answer(shared);
        shared.with(Who::Other, |inside| {
            inside.machine.virtio.arrived();
            if inside.machine.virtio.due() && !inside.held_back {
                inside.machine.kicks.push(0);
            }
        });
        if !keys.is_empty() && held == 0 {
            continue;
        }
        if more || waits {
            let pause = shared.clock.ticks_from_ms(RETRY_MS);
            let _ = wake.down_until(rdtsc().saturating_add(pause));
        } else {
            let _ = rt::calls::sm_down_all(wake.selector(), listen(shared));
        }
    }
}
