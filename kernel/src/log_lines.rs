//! The kernel's log over COM1 and on the screen: one line per record, with level and CPU.
//!
//! Used at start-up and for what is strange; the paths from trap, call and exit entries do not format.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};
use logic::cmdline::{LogLevel, Options};
use sync::SpinLock;

struct Lines;

/// Keeps lines whole when several CPUs write.
static WRITING: SpinLock<()> = SpinLock::new(());
static LINES: Lines = Lines;

/// Starts the log as the command line wants it; to COM1 with `serial`, and to `screen`. With
/// neither nothing is written.
pub fn start(options: &Options, screen: Option<arch::Screen>) {
    arch::start_console(options.serial, screen);
    let level = match options.log_level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    };
    log::set_max_level(if options.serial || screen.is_some() { level } else { LevelFilter::Off });
    // Refused only if there is a logger already: then there is one.
    let _ = log::set_logger(&LINES);
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn ",
            Level::Info => "info ",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let _whole_line = WRITING.lock();
        let _ = writeln!(Console, "[{} {level}] {}", arch::cpu_number(), record.args());
    }

    fn flush(&self) {}
}

/// The console as `core::fmt` wants it.
struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        arch::console_write(text.as_bytes());
        Ok(())
    }
}
