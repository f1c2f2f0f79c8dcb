//! What the program says, one line at a time.

use crate::sync::Mutex;
use core::fmt::{self, Write};

/// Where text goes.
pub trait Sink: Sync {
    /// Takes a piece of text. Must not print itself.
    fn write(&self, text: &str);
}

/// The sink in use.
static SINK: Mutex<Option<&'static dyn Sink>> = Mutex::new(None);

/// Sets where text goes from now on. Until then it is dropped.
pub fn set_sink(sink: &'static dyn Sink) {
    *SINK.lock() = Some(sink);
}

/// Adapter from formatted pieces to the sink.
struct Pieces(&'static dyn Sink);

impl Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text);
        Ok(())
    }
}

/// Prints; the pieces of one call stay together. Used by [`crate::print!`].
pub fn print(arguments: fmt::Arguments<'_>) {
    let sink = SINK.lock();
    if let Some(sink) = *sink {
        let _ = Pieces(sink).write_fmt(arguments);
    }
}

/// Prints even if another thread is in the middle of a line: for last words.
pub fn print_now(arguments: fmt::Arguments<'_>) {
    let attempt = (0..1000).find_map(|_| SINK.try_lock());
    match attempt {
        Some(sink) => {
            if let Some(sink) = *sink {
                let _ = Pieces(sink).write_fmt(arguments);
            }
        }
        None => {
            let _ = Pieces(&crate::com1::COM1).write_fmt(arguments);
        }
    }
}

/// Prints without a line end.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => {
        $crate::log::print(::core::format_args!($($arguments)*))
    };
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => {
        $crate::log::print(::core::format_args!("{}\n", ::core::format_args!($($arguments)*)))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Mutex<String>);

    impl Sink for Memory {
        fn write(&self, text: &str) {
            self.0.lock().push_str(text);
        }
    }

    static MEMORY: Memory = Memory(Mutex::new(String::new()));

    #[test]
    fn lines_reach_the_sink() {
        crate::println!("dropped {}", 0);
        set_sink(&MEMORY);
        crate::println!("one {}", 1);
        crate::print!("two");
        print_now(format_args!("!"));
        assert_eq!(*MEMORY.0.lock(), "one 1\ntwo!");
    }
}
