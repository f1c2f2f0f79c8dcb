//! The table of boots: every way in, processors, memory, and what a machine may lack.
//!
//! `cargo xtask boot-matrix` tells them all; the quick ones are part of `cargo xtask test`.

use crate::emulator::Engine;
use crate::stories::{BOOT, DIED, Line, Load, Loader, REFUSED, Story, Tier};
use crate::stories_small as small;
use crate::warnings;

/// The lines of a boot whose log says `text` on the way.
macro_rules! seen {
    ($($text:literal),*) => {
        &[
            Line::Never(DIED),
            Line::Never(REFUSED),
            Line::Never("did not start"),
            $(Line::Says($text),)*
            Line::Says("root: hello"),
        ]
    };
}

/// One boot of the table.
const ROW: Story = Story { tier: Tier::Long, ..BOOT };

/// A boot with a kernel that GRUB had to put elsewhere.
const ELSEWHERE: Story = Story { cpus: 2, ..ROW };

/// The table. Rows without a loader of their own are started by GRUB through BIOS and multiboot 2.
pub const MATRIX: &[Story] = &[
    // Ways in.
    Story {
        name: "matrix_multiboot1",
        tier: Tier::Quick,
        loader: Loader::Grub1,
        lines: seen!("multiboot 1"),
        ..ROW
    },
    Story {
        name: "matrix_multiboot2",
        lines: &[
            Line::Never(DIED),
            Line::Never(REFUSED),
            Line::Says("multiboot 2"),
            Line::Says("report: begins"),
            Line::Says("report: ends"),
            Line::Says("root: hello"),
            Line::Says("started by BIOS"),
        ],
        ..ROW
    },
    Story {
        name: "matrix_efi",
        tier: Tier::Quick,
        cpus: 2,
        loader: Loader::Efi,
        lines: &[
            Line::Never(DIED),
            Line::Never(REFUSED),
            Line::Says("multiboot 2, UEFI"),
            Line::Says("the log is on pixels"),
            Line::Says("root: hello"),
            Line::Says("started by UEFI"),
            Line::Tables(2),
        ],
        ..ROW
    },
    Story { name: "matrix_direct", loader: Loader::Direct, lines: seen!("multiboot 1"), ..ROW },
    // Load addresses; the linked ones are the same, as the dump of the page tables shows.
    Story {
        name: "matrix_at_4m",
        load_at: 0x40_0000,
        lines: &[
            Line::Never(DIED),
            Line::Says("loaded at 0x400000"),
            Line::Says("root: hello"),
            Line::Tables(2),
        ],
        ..ELSEWHERE
    },
    Story {
        name: "matrix_at_64m",
        tier: Tier::Quick,
        load_at: 0x400_0000,
        lines: &[
            Line::Never(DIED),
            Line::Says("loaded at 0x4000000"),
            Line::Says("root: hello"),
            Line::Tables(2),
        ],
        ..ELSEWHERE
    },
    Story {
        name: "matrix_at_512m",
        load_at: 0x2000_0000,
        lines: &[
            Line::Never(DIED),
            Line::Says("loaded at 0x20000000"),
            Line::Says("root: hello"),
            Line::Tables(2),
        ],
        ..ELSEWHERE
    },
    // Processors.
    Story { name: "matrix_cpus_1", lines: seen!("1 CPUs"), ..ROW },
    Story { name: "matrix_cpus_2", cpus: 2, lines: seen!("2 CPUs"), ..ROW },
    Story { name: "matrix_cpus_3", cpus: 3, lines: seen!("3 CPUs"), ..ROW },
    Story { name: "matrix_cpus_8", cpus: 8, lines: seen!("8 CPUs"), ..ROW },
    Story { name: "matrix_cpus_32", cpus: 32, lines: seen!("32 CPUs"), ..ROW },
    Story { name: "matrix_cpus_128", cpus: 128, timeout_s: 600, lines: seen!("128 CPUs"), ..ROW },
    Story {
        name: "matrix_x2apic_bochs",
        engine: Engine::Bochs,
        cpus: 2,
        timeout_s: 420,
        lines: seen!("X2APIC", "2 CPUs"),
        ..ROW
    },
    // What may be missing, seen on the screen.
    Story {
        name: "matrix_no_serial",
        tier: Tier::Quick,
        cpus: 2,
        qemu_args: &["-serial", "none"],
        lines: &[Line::Screen("boot: root task"), Line::Tables(2)],
        ..ROW
    },
    Story {
        name: "matrix_no_words",
        words: "",
        lines: &[Line::Never("boot:"), Line::Screen("boot: root task")],
        ..ROW
    },
    // Clocks, where time is exact: TSC and APIC timer against the PM timer, and TSCs against each other.
    Story {
        name: "matrix_clocks_bochs",
        engine: Engine::Bochs,
        cpus: 2,
        words: "serial clocks",
        timeout_s: 420,
        lines: &[
            Line::Never(DIED),
            Line::Never("NOT within"),
            Line::Says("CPU 0 (first): descriptors"),
            Line::Says("CPU 1 (started): descriptors"),
            Line::Says("clocks: TSC"),
            Line::Says("clocks: APIC timer"),
            Line::Says("within 1 %"),
            Line::Says("TSC skew: at most "),
            Line::Says("root: hello"),
        ],
        ..ROW
    },
    // Memory; 16 GiB lie mostly above 4 GiB.
    Story { name: "matrix_memory_64m", memory_mib: 64, tier: Tier::Quick, ..ROW },
    Story { name: "matrix_memory_1g", ..ROW },
    Story { name: "matrix_memory_16g", memory_mib: 16384, tier: Tier::Quick, ..ROW },
];

/// The small guest's whole suite while one optional ability is masked: of VMX in Bochs, of SVM in QEMU.
macro_rules! without {
    ($($engine:ident $story:literal $name:literal),* $(,)?) => {
        &[$(Story {
            name: $story,
            tier: Tier::Long,
            words: concat!("serial without=", $name),
            lines: &[
                Line::Never(DIED),
                Line::Never(REFUSED),
                Line::Never(small::FAILED),
                Line::Says(concat!("guests do without ", $name)),
                Line::Says("small: hello ok"),
                Line::Says("small: deadline ok"),
                Line::Says("small: spin ok"),
                Line::Says("linux powered off"),
            ],
            timeout_s: 420,
            engine: Engine::$engine,
            ..small::ALL_BOCHS
        }),*]
    };
}

/// Guests without what VMX and SVM need not have.
pub const MASKS: &[Story] = without![
    Bochs "mask_vpid_bochs" "vpid",
    Bochs "mask_tpr_shadow_bochs" "tpr-shadow",
    Bochs "mask_io_bitmaps_bochs" "io-bitmaps",
    Bochs "mask_mov_dr_bochs" "mov-dr",
    Bochs "mask_monitor_bochs" "monitor",
    Bochs "mask_pause_bochs" "pause",
    Bochs "mask_virtual_apic_bochs" "virtual-apic",
    Bochs "mask_descriptor_table_bochs" "descriptor-table",
    Bochs "mask_rdtscp_bochs" "rdtscp",
    Bochs "mask_wbinvd_bochs" "wbinvd",
    Bochs "mask_virtual_interrupt_bochs" "virtual-interrupt",
    Bochs "mask_xsaves_bochs" "xsaves",
    Qemu "mask_next_rip_qemu" "next-rip",
    Qemu "mask_clean_bits_qemu" "clean-bits",
    Qemu "mask_flush_by_asid_qemu" "flush-by-asid",
    Qemu "mask_decode_assists_qemu" "decode-assists",
];

/// Sleeps, is woken from outside, and answers.
const CYCLE: &[Line] = &[
    Line::Type("suspend"),
    Line::Asleep,
    Line::Monitor("system_wakeup"),
    Line::Says("(resumed)"),
    Line::Says("the machine is awake again"),
    Line::Says("hematite> "),
];

/// Suspend to memory, with nothing but the root task.
const SLEEP: Story = Story {
    cpus: 4,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        Line::Times(3, CYCLE),
        Line::Tables(4),
    ],
    timeout_s: 120,
    ..BOOT
};

/// A cycle while the guest that prints a line every second runs: it goes on afterwards.
const GUEST_CYCLE: &[Line] = &[
    Line::Type("\x1d"),
    Line::Says("hematite> "),
    Line::Times(1, CYCLE),
    Line::Type("guest console linux"),
    Line::Says("small: tick"),
    Line::Says("small: tick"),
];

/// The same with a guest.
const SLEEP_GUEST: Story = Story {
    load: Load::Small("tick"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("small: tick"),
        Line::Times(3, GUEST_CYCLE),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Tables(4),
    ],
    ..SLEEP
};

/// In Bochs the machine wakes at once. A VMX guest runs across each suspension.
const SLEEP_BOCHS: Story = Story {
    engine: Engine::Bochs,
    cpus: 1,
    load: Load::Small("tick"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("small: tick"),
        Line::Times(
            2,
            &[
                Line::Type("\x1d"),
                Line::Says("hematite> "),
                Line::Type("suspend"),
                Line::Says("(resumed)"),
                Line::Says("the machine is awake again"),
                Line::Type("guest console linux"),
                Line::Says("small: tick"),
                Line::Says("small: tick"),
            ],
        ),
    ],
    timeout_s: 420,
    ..SLEEP
};

/// A hundred cycles by the prompt.
const SLEEP_PROMPT: Story = Story {
    tier: Tier::Long,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        Line::Times(100, CYCLE),
        Line::Tables(4),
    ],
    timeout_s: 1200,
    ..SLEEP
};

/// A cycle of the program that looks at itself after each: a ring of calls and semaphores through all CPUs, time-outs
/// that were set before, a guest.
const OWN_CYCLE: &[Line] =
    &[Line::Asleep, Line::Monitor("system_wakeup"), Line::Says("(resumed)"), OWN_WORD];

/// Before: sleep registers were written, and the machine did not lose power.
const STAYED: Line = Line::Says("sleeper: stayed awake: the kernel refuses to suspend: BAD_PAR");

/// What it says after each.
const OWN_WORD: Line = Line::Says("all alarms, all is right");

/// A hundred such cycles.
const SLEEP_HUNDRED: Story = Story {
    tier: Tier::Long,
    load: Load::Program("sleeper"),
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("WRONG"),
        Line::Says("sleeper: 4 CPUs, guest: counts"),
        STAYED,
        Line::Times(100, OWN_CYCLE),
        Line::Says("sleeper: 100 cycles, all is right"),
        Line::Tables(4),
    ],
    timeout_s: 1800,
    ..SLEEP
};

/// Twenty in Bochs, which wakes at once, across each of which a VMX guest counts.
const SLEEP_TWENTY: Story = Story {
    engine: Engine::Bochs,
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("WRONG"),
        Line::Says("sleeper: 2 CPUs, guest: counts"),
        STAYED,
        Line::Times(20, &[Line::Says("(resumed)"), OWN_WORD]),
    ],
    ..SLEEP_HUNDRED
};

/// A machine that cannot be suspended says why, and everything goes on.
macro_rules! stays_awake {
    ($story:literal, $why:literal, $($arg:literal),*) => {
        Story {
            name: $story,
            cpus: 2,
            qemu_args: &[$($arg),*],
            lines: &[
                Line::Never(DIED),
                Line::Never(REFUSED),
                Line::Never("(resumed)"),
                Line::Says("hematite> "),
                Line::Type("suspend"),
                Line::Says($why),
                Line::Times(
                    2,
                    &[
                        Line::Says("hematite> "),
                        Line::Type("suspend"),
                        Line::Says($why),
                        Line::Says("hematite> "),
                        Line::Type("mem"),
                        Line::Same("KiB free in the kernel"),
                        Line::Same("KiB free for guests"),
                    ],
                ),
            ],
            ..BOOT
        }
    };
}

/// Only a method says how this machine sleeps; it is evaluated.
const SLEEP_COMPUTED: Story = Story {
    cpus: 2,
    qemu_args: &[
        "-global",
        "PIIX4_PM.disable_s3=1",
        "-acpitable",
        "sig=SSDT,rev=2,data=@ROOT/user/aml/tables/computed.aml",
    ],
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("hematite> "),
        Line::Times(1, CYCLE),
    ],
    ..SLEEP
};

/// A Linux guest goes on, and its clock does not run backwards.
const SLEEP_LINUX: Story = Story {
    tier: Tier::Long,
    cpus: 2,
    load: Load::Linux,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("~ #"),
        Line::Type("read a b </proc/uptime; echo $a"),
        Line::Says("~ #"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Times(1, CYCLE),
        Line::Type("guest console linux"),
        Line::Type("read c b </proc/uptime; [ ${c%.*} -ge ${a%.*} ] && echo clock goes $((1)) way"),
        Line::Says("clock goes 1 way"),
        Line::Says("~ #"),
        Line::Type(warnings::LIST),
        Line::Says(warnings::LISTED),
    ],
    timeout_s: 300,
    ..SLEEP
};

/// Suspensions.
pub const SLEEPS: &[Story] = &[
    Story { name: "sleep_linux_qemu", ..SLEEP_LINUX },
    Story { name: "sleep_computed_qemu", ..SLEEP_COMPUTED },
    stays_awake!(
        "sleep_refused_qemu",
        "the ACPI tables have no \\_S3",
        "-global",
        "PIIX4_PM.disable_s3=1"
    ),
    stays_awake!(
        "sleep_endless_qemu",
        "this machine's AML gave no answer within 5 seconds",
        "-acpitable",
        "sig=SSDT,rev=2,data=@ROOT/user/aml/tables/endless.aml"
    ),
    stays_awake!(
        "sleep_unknown_qemu",
        "the interpreter cannot evaluate this machine's AML",
        "-acpitable",
        "sig=SSDT,rev=2,data=@ROOT/user/aml/tables/unknown.aml"
    ),
    stays_awake!(
        "sleep_port_qemu",
        "AML wants port 0x70",
        "-acpitable",
        "sig=SSDT,rev=2,data=@ROOT/user/aml/tables/port.aml"
    ),
    Story { name: "sleep_guest_qemu", ..SLEEP_GUEST },
    Story { name: "sleep_guest_bochs", tier: Tier::Long, ..SLEEP_BOCHS },
    Story { name: "sleep_both_bochs", tier: Tier::Long, cpus: 2, timeout_s: 900, ..SLEEP_BOCHS },
    Story { name: "sleep_prompt_hundred_qemu", ..SLEEP_PROMPT },
    Story { name: "sleep_hundred_qemu", ..SLEEP_HUNDRED },
    Story { name: "sleep_twenty_bochs", ..SLEEP_TWENTY },
    Story { name: "sleep_qemu_1", cpus: 1, tier: Tier::Long, ..SLEEP },
    Story { name: "sleep_qemu_4", ..SLEEP },
];

/// The boot that is repeated: eight processors.
pub const REPEATED: Story = Story {
    name: "matrix_again",
    cpus: 8,
    cpu_model: "max,-svm",
    load: Load::Root,
    lines: seen!("8 CPUs"),
    ..ROW
};
