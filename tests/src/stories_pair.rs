//! Two Linux guests side by side: what happens to one, the other must not feel.

use crate::serial::Ticks;
use crate::stories::{BOOT, DIED, Line, Load, REFUSED, Story, Tier};

/// Back to the prompt.
const BACK: Line = Line::Times(1, &[Line::Type("\x1d"), Line::Says("hematite> ")]);

/// Every gap between the ticks since the last look is within 10 % of the mean of the first ones.
macro_rules! even {
    ($word:literal) => {
        Line::Ticks(Ticks { text: concat!($word, " "), more: 15, percent: 10 })
    };
}

/// A guest prints `WORD NUMBER SECONDS` every second of its own time.
macro_rules! ticks {
    ($guest:literal $word:literal) => {
        Line::Times(
            1,
            &[
                Line::Type(concat!("guest console ", $guest)),
                Line::Type(concat!(
                    "n=0; while :; do n=$((n+1)); read u r </proc/uptime; echo ",
                    $word,
                    " $n $u; sleep 1; done"
                )),
                even!($word),
                BACK,
            ],
        )
    };
}

/// Commands for one guest while the other ticks.
macro_rules! beside {
    ($other:literal $word:literal: $command:literal, $($said:literal),+) => {
        Line::Times(
            1,
            &[
                Line::Type($command),
                $(Line::Says($said),)+
                Line::Type(concat!("guest console ", $other)),
                even!($word),
                BACK,
            ],
        )
    };
}

/// Each guest is paused, resumed, reset, destroyed and started again while the other prints a steady tick.
pub(crate) const PAIR_TICK: Story = Story {
    load: Load::Manifest("guests/pair.dts"),
    deterministic: true,
    lines: &[
        Line::Never(DIED),
        Line::Never(REFUSED),
        Line::Says("guest right started"),
        Line::Says("hematite> "),
        Line::Type("guest console left"),
        Line::Says("~ #"),
        BACK,
        Line::Type("guest console right"),
        Line::Says("~ #"),
        BACK,
        ticks!("right" "tick"),
        beside!("right" "tick": "guest pause left", "left is PAUSED"),
        beside!("right" "tick": "guest resume left", "left is READY"),
        beside!("right" "tick": "guest reset left", "left is RESET"),
        beside!("right" "tick": "guest destroy left", "left is UNKNOWN"),
        beside!("right" "tick": "guest start left", "left is READY"),
        // It stops, and the other begins.
        Line::Type("guest console right"),
        Line::Type("\x03"),
        Line::Says("~ #"),
        BACK,
        Line::Type("guest console left"),
        Line::Says("~ #"),
        BACK,
        ticks!("left" "tock"),
        beside!("left" "tock": "guest pause right", "right is PAUSED"),
        beside!("left" "tock": "guest resume right", "right is READY"),
        beside!("left" "tock": "guest reset right", "right is RESET"),
        beside!("left" "tock": "guest destroy right", "right is UNKNOWN"),
        beside!("left" "tock": "guest start right", "right is READY"),
        Line::Type("guest console right"),
        Line::Says("~ #"),
    ],
    cpus: 2,
    timeout_s: 1800,
    tier: Tier::Long,
    ..BOOT
};
