//! Numbers that a machine says again and again, and how steady they are: what a life costs, how evenly a guest ticks.

use std::collections::HashMap;
use std::fmt;

/// How two measured numbers must have grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The texts by which they were measured.
    pub rows: [&'static str; 2],
    /// For each 1 of the first so many of the second.
    pub times: u64,
    /// How far off the second may be, in percent.
    pub percent: u64,
    /// Both together have grown by at least this.
    pub least: u64,
}

impl Shares {
    /// What is wrong with these growths, if anything is.
    #[must_use]
    pub fn wrong(&self, [one, other]: [u64; 2]) -> Option<String> {
        let wanted = one * self.times;
        let far = other.abs_diff(wanted) * 100 > wanted * self.percent;
        let short = one + other < self.least;
        (far || short).then(|| {
            let [first, second] = self.rows;
            format!("{first} grew by {one}, {second} by {other}: not 1 to {}", self.times)
        })
    }
}

/// What the last of many cycles must have in common with the first: the sum of some rows, on average over a few cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    /// Rows that count on: in each cycle measured before and after, twice. (What happens between two commands is not
    /// counted: how long we type is not the machine's business.)
    pub counters: &'static [&'static str],
    /// Rows that begin anew in each cycle, measured once in it.
    pub fresh: &'static [&'static str],
    /// Cycles on each side that are compared.
    pub cycles: usize,
    /// How far off the last may be, in percent of the first.
    pub percent: u64,
}

/// The mean of the first cycles and of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// At the beginning.
    pub first: u64,
    /// At the end.
    pub last: u64,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mean of the first cycles {}, of the last {}", self.first, self.last)
    }
}

impl Steady {
    /// The means; `None` when too little was measured.
    #[must_use]
    pub fn means(&self, numbers: &HashMap<&str, Vec<u64>>) -> Option<Means> {
        let mut sums = Means { first: 0, last: 0 };
        for (rows, each) in [(self.counters, LOOKS), (self.fresh, 1)] {
            for row in rows {
                let all = numbers.get(row)?;
                let first = all.get(..each * self.cycles)?;
                let last = all.get(all.len().checked_sub(each * self.cycles)?..)?;
                let sum = |part: &[u64]| match each {
                    1 => part.iter().sum::<u64>(),
                    _ => part.chunks(2).map(grown).sum(),
                };
                sums.first += sum(first);
                sums.last += sum(last);
            }
        }
        let cycles = self.cycles.max(1) as u64;
        Some(Means { first: sums.first / cycles, last: sums.last / cycles })
    }

    /// Whether these means are near enough to each other. Nothing measured is not steady.
    #[must_use]
    pub fn holds(&self, means: Means) -> bool {
        let far = means.first.abs_diff(means.last) * 100 > means.first * self.percent;
        means.first > 0 && !far
    }
}

/// How often a row that counts on is looked at in each cycle.
const LOOKS: usize = 4;

/// What a row has grown by between two looks.
fn grown(looks: &[u64]) -> u64 {
    match looks {
        [before, after] => after.saturating_sub(*before),
        _ => 0,
    }
}

/// A line `TEXT NUMBER SECONDS`: which tick, and when, in hundredths of a second.
#[must_use]
pub fn tick(line: &str, text: &str) -> Option<(u64, u64)> {
    let (_, words) = line.split_once(text)?;
    let mut words = words.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let (whole, part) = words.next()?.split_once('.')?;
    let hundredths: u64 = if part.len() == 2 { part.parse().ok()? } else { return None };
    Some((number, whole.parse::<u64>().ok()? * 100 + hundredths))
}

/// The time between two ticks, in hundredths of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many were seen.
    pub ticks: u64,
    /// On average, times 100.
    pub mean: u64,
    /// The longest and the shortest.
    pub longest: u64,
    /// See [`Pace::longest`].
    pub shortest: u64,
}

impl Pace {
    /// Of these ticks; `None` of fewer than two. Ticks that were not seen are known by the numbers of the others.
    #[must_use]
    pub fn of(ticks: &[(u64, u64)]) -> Option<Self> {
        let ((begun, from), (ended, to)) = ticks.first().zip(ticks.last())?;
        let count = ended.checked_sub(*begun).filter(|count| *count > 0)?;
        let gaps = ticks.windows(2).filter_map(|pair| match pair {
            [(one, at), (other, then)] => {
                then.checked_sub(*at)?.checked_div(other.checked_sub(*one)?)
            }
            _ => None,
        });
        let (longest, shortest) =
            gaps.fold((0, u64::MAX), |(most, least), gap| (most.max(gap), least.min(gap)));
        Some(Self { ticks: count, mean: to.checked_sub(*from)? * 100 / count, longest, shortest })
    }

    /// Whether mean and every single gap are within so many percent of another's mean.
    #[must_use]
    pub fn like(&self, before: &Self, percent: u64) -> bool {
        [self.mean, self.longest * 100, self.shortest * 100]
            .into_iter()
            .all(|gap| gap.abs_diff(before.mean) * 100 <= before.mean * percent)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticks, mean, longest, shortest } = self;
        write!(
            f,
            "{ticks} ticks, {mean} hundredths of 1/100 s on average, {shortest} to {longest} hundredths"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: Steady = Steady { counters: &["root"], fresh: &["one"], cycles: 2, percent: 10 };

    #[test]
    fn counters_grow_and_fresh_rows_stand_for_themselves() {
        let mut numbers = HashMap::new();
        let looks = [[0, 5, 9, 14], [20, 25, 35, 40], [70, 99, 100, 150], [200, 205, 300, 305]];
        let more = [[400, 406, 450, 454]];
        numbers.insert("root", [&looks[..], &more].concat().concat());
        assert_eq!(STEADY.means(&numbers), None);
        numbers.insert("one", vec![30, 30, 7, 30, 34]);
        let means = STEADY.means(&numbers).unwrap();
        assert_eq!(means, Means { first: 40, last: 42 });
        assert!(STEADY.holds(means));
        assert!(!STEADY.holds(Means { first: 40, last: 45 }));
        assert!(!STEADY.holds(Means { first: 0, last: 0 }));
        numbers.insert("one", vec![1]);
        assert_eq!(STEADY.means(&numbers), None);
    }

    #[test]
    fn shares_are_compared_within_their_margin() {
        let shares = Shares { rows: ["a", "b"], times: 3, percent: 5, least: 400 };
        assert_eq!(shares.wrong([100, 300]), None);
        assert_eq!(shares.wrong([100, 315]), None);
        assert!(shares.wrong([100, 316]).is_some() && shares.wrong([100, 284]).is_some());
        assert_eq!(shares.wrong([50, 150]).as_deref(), Some("a grew by 50, b by 150: not 1 to 3"));
        assert!(shares.wrong([0, 0]).is_some());
    }

    #[test]
    fn ticks_are_read_and_other_lines_are_not() {
        assert_eq!(tick("tick 17 123.45", "tick "), Some((17, 12_345)));
        for other in ["tick $n $u", "tick 17", "tick 17 123.4", "tick 17 12", "tock 1 2.00"] {
            assert_eq!(tick(other, "tick "), None, "{other}");
        }
    }

    #[test]
    fn the_pace_is_the_mean_and_the_worst() {
        let pace = Pace::of(&[(1, 100), (2, 201), (5, 504), (6, 612)]).unwrap();
        assert_eq!(pace, Pace { ticks: 5, mean: 10_240, longest: 108, shortest: 101 });
        let even = Pace { ticks: 9, mean: 10_100, longest: 102, shortest: 100 };
        assert!(pace.like(&even, 10) && !pace.like(&even, 5));
        assert_eq!(Pace::of(&[(1, 5)]), None);
        assert_eq!(Pace::of(&[(2, 5), (1, 9)]), None);
    }
}
