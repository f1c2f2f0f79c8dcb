//! The stories of the guest in `guests/small`, which tests the machine it runs on.

use crate::emulator::Engine;
use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story};

/// How it says that a test failed; a test without its "ok" fails the story too.
pub(crate) const FAILED: &str = " FAIL ";

/// On one processor in deterministic time.
pub(crate) const SMALL: Story = Story { load: Load::Small("all"), deterministic: true, ..BOOT };

/// A story in QEMU with one test, after which the guest powers off.
macro_rules! one {
    ($story:literal, $test:literal) => {
        $crate::stories::Story {
            name: $story,
            load: $crate::stories::Load::Small($test),
            lines: &[
                $crate::stories::Line::Never($crate::stories::DIED),
                $crate::stories::Line::Never($crate::stories::REFUSED),
                $crate::stories::Line::Never($crate::stories_small::FAILED),
                $crate::stories::Line::Says(concat!("small: ", $test, " ok")),
                $crate::stories::Line::Says("linux powered off"),
            ],
            ..$crate::stories_small::SMALL
        }
    };
}
pub(crate) use one;

/// Every test that leaves the guest alive, in one boot of Bochs.
pub(crate) const ALL_BOCHS: Story = Story {
    engine: Engine::Bochs,
    load: Load::Small("all spin"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Says("small: hello ok"),
        Line::Says("small: faults ok"),
        Line::Says("small: unclaimed ok"),
        Line::Says("small: pit ok"),
        Line::Says("small: lapic ok"),
        Line::Says("small: deadline ok"),
        Line::Says("small: spin ok"),
        Line::Says("linux powered off"),
    ],
    ..SMALL
};

/// The guest dies of a triple fault, the monitor says where and how, the host goes on.
pub(crate) const TRIPLE: Story = Story {
    load: Load::Small("triple"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("small: hello"),
        Line::Says("stopped: triple fault (vCPU 0, RIP 0x2"),
        Line::Says("exit TripleFault"),
        Line::Says("bytes at RIP: 0f 0b"),
        Line::Says("last exits"),
        Line::Says("TripleFault 0x2"),
        Line::Says("linux stopped"),
        Line::Says("hematite>"),
        Line::Type("guest list"),
        Line::Says("HALTED   stopped by its monitor"),
    ],
    ..SMALL
};
