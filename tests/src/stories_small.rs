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

/// What an exit costs in Bochs, where a tick is an instruction: as the guest sees it, and the monitor's part of it.
pub(crate) const COST_BOCHS: Story = Story {
    engine: Engine::Bochs,
    load: Load::Small("cost"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::LastAtMost("small: cost of out ", 2500),
        Line::LastAtMost("small: cost of in ", 2500),
        Line::LastAtMost("small: cost of timer ", 2500),
        Line::LastAtMost("small: cost of cpuid ", 2250),
        Line::LastAtMost("small: cost of rdmsr ", 2250),
        Line::LastAtMost("small: cost of wrmsr ", 2250),
        Line::LastAtMost("small: cost of load ", 4000),
        Line::LastAtMost("small: cost of store ", 4000),
        Line::Says("linux powered off"),
        Line::Says("hematite> "),
        Line::Type("exits linux"),
        Line::LastAtMost("Cpuid ", 1250),
        Line::LastAtMost("Io ", 1700),
        Line::LastAtMost("Rdmsr ", 1300),
        Line::LastAtMost("Wrmsr ", 1400),
        Line::Says("all  "),
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

/// The multiboot example says what its loader told it.
pub(crate) const HELLO: Story = Story {
    load: Load::Gallery("guests/hello.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Says("multiboot: hello, my command line is one two three"),
        Line::Says("multiboot: KiB above 1 MiB: 15360"),
        Line::Says("multiboot: module note.txt says I came as a module."),
        // One processor, two buses, the I/O APIC, 15 wires, two local interrupts.
        Line::Says("multiboot: entries of the MP table: 21"),
        Line::Says("multiboot: no disk"),
        Line::Says("multiboot: end"),
        Line::Says("hello powered off"),
    ],
    ..BOOT
};

/// The same finds what kernels of old look for, and its screen is shown.
pub(crate) const LEGACY: Story = Story {
    load: Load::Gallery("guests/legacy.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Never("nobody claims"),
        Line::Says("multiboot: hello, my command line is old"),
        Line::Says("multiboot: entries of the MP table: 21"),
        Line::Says("multiboot: sectors of the disk: 16384"),
        Line::Says("multiboot: it begins with: A disk of Hematite."),
        Line::Says("multiboot: sector 3 reads as it was written"),
        Line::Says("multiboot: end"),
        Line::Says("old powered off"),
        Line::Says("hematite> "),
        Line::Type("guest screen old"),
        Line::Says("|\r\n|\r\n|multiboot: hello on the screen\r\n|\r\n"),
        Line::Says("|\r\ncursor: line 3, column 31\r\n"),
        Line::Type("guest reset old; guest screen old"),
        Line::Says("old is RESET"),
        Line::Says("old: no screen: the guest is RESET"),
        Line::Type("guest screen"),
        Line::Says("guest screen: which guest? guest list names them"),
    ],
    ..BOOT
};

/// The same as an ELF64, twice in its life, beside a guest that ticks.
pub(crate) const MULTIBOOT: Story = Story {
    load: Load::Gallery("guests/multiboot.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Says("wide powered off"),
        Line::Type("guest reset wide; guest kick wide; guest console wide"),
        Line::Says("wide is READY"),
        Line::Says("multiboot: hello, my command line is sixty-four"),
        Line::Says("multiboot: module note.txt says I came as a module."),
        Line::Says("multiboot: module note.txt says I came as a module."),
        Line::Says("multiboot: end"),
        Line::Says("wide powered off"),
        Line::Type("guest console ticks"),
        Line::Times(2, &[Line::Says("small: tick")]),
    ],
    ..BOOT
};

/// Debian's memory tester goes through its first tests and finds nothing wrong.
pub(crate) const MEMTEST: Story = Story {
    load: Load::Gallery("guests/memtest.dts"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("nobody claims Memory 0xb8"),
        Line::Says("Memtest86+ v6."),
        Line::Says("Pass"),
        Line::Says("Errors: 0"),
    ],
    ..BOOT
};
