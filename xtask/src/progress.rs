//! Shows what is being done: a spinner on a terminal, one plain line per step elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The spinners of all steps under way: two may run at once.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// One step under way. Dropping it unfinished leaves a line that says it failed.
pub struct Step {
    what: String,
    begun: Instant,
    bar: Option<ProgressBar>,
    done: bool,
}

impl Step {
    /// Announces a step.
    pub fn new(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style).with_prefix(what.clone());
            let bar = BARS.add(bar);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { what, begun: Instant::now(), bar, done: false }
    }

    /// What is going on inside the step; shown on a terminal only.
    pub fn detail(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.trim().to_string());
        }
    }

    /// The step is done; `note` says what came of it.
    pub fn finish(mut self, note: &str) {
        self.done = true;
        self.line("done", note);
    }

    /// The step ends without a line of its own: the caller tells what came of it.
    pub fn leave(mut self) {
        self.done = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, word: &str, note: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let gap = if note.is_empty() { "" } else { ": " };
        let took = self.begun.elapsed().as_secs_f64();
        BARS.suspend(|| eprintln!("{word:>6}  {}{gap}{note} ({took:.1} s)", self.what));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.done {
            self.line("FAILED", "");
        }
    }
}
