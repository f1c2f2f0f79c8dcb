//! Stories about regions of a guest's memory besides its RAM.

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
