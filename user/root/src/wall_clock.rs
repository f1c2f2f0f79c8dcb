//! What time it is, from the machine's CMOS clock (Motorola MC146818 data sheet).
//!
//! The registers are read through a function, so that the arithmetic runs anywhere.

/// Seconds since 1970-01-01 UTC, or nothing if the clock makes no sense. `read` gives the register
/// with this number; the clock is read until two readings agree, so no update falls between.
pub fn seconds(mut read: impl FnMut(u8) -> u8) -> Option<u64> {
    let mut last = reading(&mut read);
    for _ in 0..1000 {
        let updating = read(0x0a) & 0x80 != 0;
        let now = reading(&mut read);
        if !updating && now == last {
            return convert(now);
        }
        last = now;
    }
    None
}

/// Second, minute, hour, day, month, year, century, format.
fn reading(read: &mut impl FnMut(u8) -> u8) -> [u8; 8] {
    [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32, 0x0b].map(read)
}

fn convert(raw: [u8; 8]) -> Option<u64> {
    let [second, minute, hour, day, month, year, century, format] = raw;
    let binary = format & 4 != 0;
    let number = |value: u8| -> u64 {
        let value = u64::from(value);
        if binary { value } else { (value >> 4) * 10 + (value & 0xf) }
    };
    let afternoon = format & 2 == 0 && hour & 0x80 != 0;
    let mut hours = number(hour & 0x7f);
    if format & 2 == 0 {
        hours = hours % 12 + if afternoon { 12 } else { 0 };
    }
    let century = match number(century) {
        century @ 19..=21 => century,
        _ => 20,
    };
    let (year, month, day) = (century * 100 + number(year), number(month), number(day));
    let (minute, second) = (number(minute), number(second));
    let sound = (1970..2200).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hours < 24
        && minute < 60
        && second < 61;
    sound.then(|| ((days(year, month, day) * 24 + hours) * 60 + minute) * 60 + second)
}

/// Days since 1970-01-01; years begin in March here, so that the leap day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let bcd = [0x56, 0x34, 0x12, 0x29, 0x02, 0x24, 0x20, 2];
        assert_eq!(convert(bcd), Some(1_709_210_096));
        let binary = [0, 0, 0, 1, 1, 70, 19, 6];
        assert_eq!(convert(binary), Some(0));
        let evening = [0, 0, 0x91, 1, 1, 0x70, 0x19, 0];
        assert_eq!(convert(evening), Some(23 * 3600));
        assert_eq!(convert([0xff; 8]), None);
    }

    #[test]
    fn an_update_is_waited_for() {
        let mut reads = 0;
        let clock = seconds(|register| {
            reads += 1;
            match register {
                0x0a if reads < 40 => 0x80,
                0x0a => 0,
                0x07 | 0x08 => 1,
                0x32 => 0x20,
                0x0b => 2,
                _ => 0,
            }
        });
        assert_eq!(clock, Some(946_684_800));
        assert_eq!(seconds(|_| 0xff), None);
    }
}
