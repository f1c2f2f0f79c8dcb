//! Stories about what a manifest says besides processors, RAM and devices.

use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story};
use crate::stories_small::FAILED;

/// Two guests count in turns in memory that they share, a third may only look; what is written to the read-only memory
/// and to a ROM changes nothing. What was counted outlives one of them; when all are gone, the next finds zeros.
pub(crate) const SHARED: Story = Story {
    load: Load::Gallery("guests/shared.dts"),
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Never("kept out of use"),
        Line::Says("root: guest watch started"),
        Line::Says("vmm watch: nobody claims Memory 0xfff00000, written with 4 byte(s)"),
        Line::Says("vmm watch: nobody claims Memory 0xf0000000, written with 4 byte(s)"),
        Line::Says("vmm watch: watch powered off"),
        Line::Type("guest log watch"),
        Line::Says("small: rom ok"),
        Line::Says("small: look ok"),
        Line::Type("guest log left"),
        Line::Says("small: even took 50 turns"),
        Line::Says("small: even ok"),
        Line::Type("guest log right"),
        Line::Says("small: odd took 50 turns"),
        Line::Type("mem"),
        Line::Says("counter         4 KiB, shared by left right watch"),
        // The count stays while one of them goes and comes back.
        Line::Type("guest reset left; guest destroy left; guest start left"),
        Line::Says("vmm left: left powered off"),
        Line::Type("guest log left"),
        Line::Says("small: even took 0 turns"),
        // And begins anew when all were gone.
        Line::Times(
            3,
            &[
                Line::Type(
                    "guest reset left; guest destroy left; guest reset right; guest destroy right",
                ),
                Line::Says("right is UNKNOWN"),
                Line::Type("guest reset watch; guest destroy watch; mem"),
                Line::Says("counter         4 KiB, shared by nobody"),
                Line::Same("KiB free in the kernel"),
                Line::Same("KiB free for guests"),
                Line::Type("guest start left; guest start right; guest start watch"),
                Line::Says("vmm watch: watch powered off"),
                Line::Type("guest log right"),
                Line::Says("small: odd took 50 turns"),
            ],
        ),
    ],
    timeout_s: 300,
    ..BOOT
};

/// A guest reads the machine's firmware and uses registers of its DMA controller, which every boot calls dangerous.
pub(crate) const PASSED: Story = Story {
    load: Load::Smalls { monitor: "vmm", manifest: "tests/manifests/passed.dts" },
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never(FAILED),
        Line::Never("kept out of use"),
        Line::Says(
            "root: /guests/one/aspace/latches: guest one has a device that can reach all memory of the machine: \
             there is no IOMMU driver",
        ),
        Line::Says("hematite> "),
        Line::Times(
            2,
            &[
                Line::Type("guest start one; guest console one"),
                Line::Says("small: firmware ok"),
                Line::Says("small: latches ok"),
                Line::Says("one powered off"),
                Line::Type("guest reset one; guest destroy one; mem"),
                Line::Same("KiB free in the kernel"),
                Line::Same("KiB free for guests"),
            ],
        ),
    ],
    timeout_s: 300,
    ..BOOT
};

/// A machine that refuses its manifest with these words, and goes on without guests.
macro_rules! refused {
    ($story:literal, $manifest:literal, $words:literal) => {
        $crate::stories::Story {
            name: $story,
            load: $crate::stories::Load::Smalls {
                monitor: "vmm",
                manifest: concat!("tests/manifests/", $manifest),
            },
            lines: &[
                $crate::stories::Line::Never($crate::stories::DIED),
                $crate::stories::Line::Never($crate::stories::REFUSED),
                $crate::stories::Line::Says(concat!("root: manifest: ", $words)),
                $crate::stories::Line::Says("hematite> "),
                $crate::stories::Line::Type("guest start one"),
                $crate::stories::Line::Says("one: no such guest"),
            ],
            ..$crate::stories::BOOT
        }
    };
}
pub(crate) use refused;

/// A processor that no guest is put on, the terminal for one of three guests, time-outs for all: what `/host` and `/vmm` say
/// has its effect.
pub(crate) const HOST: Story = Story {
    load: Load::Smalls { monitor: "vmm-crash", manifest: "tests/manifests/host.dts" },
    cpus: 2,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Never("vmm ticks: silent"),
        Line::Says("root: guest ticks started"),
        // Without a word of ours.
        Line::Says("small: tick 2"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest start doze"),
        Line::Says("doze is READY"),
        Line::Type("cpu"),
        Line::Says("LAPIC id 0; doze; ticks"),
        Line::Says("LAPIC id 1; kept for the root task"),
        Line::Says("vmm doze: silent for 2 s:"),
        Line::Type("guest start hang"),
        Line::Says("hang is READY"),
        Line::Type("guest console hang"),
        Line::Says("small: hello"),
        Line::Type("\x1d"),
        Line::Says("hematite> "),
        Line::Type("guest pause hang"),
        Line::Says("hang: the monitor does not answer within 300 ms"),
        Line::Type("guest halt hang"),
        Line::Says("hang is HALTED"),
    ],
    timeout_s: 300,
    ..BOOT
};
