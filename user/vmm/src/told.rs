//! What this program tells the root task when asked: its threads (`vmm::status`), its guest's screen (`vmm::screen`).
use crate::pages::words;
use crate::shared::{Shared, Who};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::sync::Mutex;
use rt::thread::Thread;
use vmm::control;
use vmm::screen;
use vmm::status::{self, Kind, State};

/// All threads but the first, with what does not change.
static THREADS: Mutex<Vec<(Thread, status::Thread)>> = Mutex::new(Vec::new());

/// A thread was started.
pub fn note(thread: Thread, kind: Kind, cpu: u16, priority: u8, slice_us: u32) {
    let told = status::Thread { kind, state: State::Waits, priority, cpu, slice_us, time_us: 0 };
    THREADS.lock().push((thread, told));
}

/// The page.
pub fn page() -> &'static [AtomicU64] {
    words(control::STATUS, abi::PAGE_SIZE)
}

/// Answers the root task's question, if there is a new one.
pub fn answer(shared: &Shared) {
    let question = words(control::CONTROL, abi::PAGE_SIZE).get(control::QUESTION_WORD);
    let (Some(question), Some(answer)) = (question, page().get(status::ANSWER_WORD)) else {
        return;
    };
    let question = question.load(Ordering::Acquire);
    if question == answer.load(Ordering::Relaxed) {
        return;
    }
    let asleep = shared.with(Who::Other, |inside| {
        let screen = words(control::SCREEN, abi::PAGE_SIZE);
        screen::put(screen, &inside.machine.memory, inside.machine.board.text());
        inside.asleep.clone()
    });
    let mut processors = asleep.into_iter();
    for (index, (thread, told)) in THREADS.lock().iter().enumerate() {
        let waits = match told.kind {
            Kind::Processor => processors.next().unwrap_or(true),
            Kind::Watcher => true,
            Kind::Streams => false,
        };
        let state = if waits { State::Waits } else { State::Runs };
        let time_us = rt::calls::sc_time_us(thread.sc).unwrap_or(0);
        status::put(page(), index, &status::Thread { state, time_us, ..*told });
    }
    answer.store(question, Ordering::Release);
}
