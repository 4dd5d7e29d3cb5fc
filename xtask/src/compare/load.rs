//! Whether somebody else had the processors: what the machine did, less what the sides did.
//!
//! The load average counts our own processes, too, and forgets within a minute. A library that waits at barriers, as
//! OpenMP does, loses far more than its share when another process holds one of its processors, so a comparison on a busy
//! machine is unfair; the report says how busy it was.

use std::path::Path;

/// Processor time so far, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of all processors, idle or not.
    total: u64,
    /// Not idle.
    busy: u64,
    /// Of this process, those that it started, and those that have ended.
    own: u64,
}

impl Usage {
    /// Now. None where there is no `/proc`.
    pub(crate) fn now(children: &[u32]) -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let (total, busy) = all(&stat)?;
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let (process, ended) = one(&read(Path::new("/proc/self/stat"))?)?;
        let mut own = process + ended;
        for child in children {
            let (process, ended) = one(&read(Path::new(&format!("/proc/{child}/stat")))?)?;
            own += process + ended;
        }
        Some(Self { total, busy, own })
    }

    /// Share of all processor time since then that went to others, 0..1.
    pub(crate) fn others_since(self, then: Self) -> f64 {
        let [total, busy, own] = [(self.total, then.total), (self.busy, then.busy), (self.own, then.own)]
            .map(|(now, then)| now.saturating_sub(then));
        busy.saturating_sub(own) as f64 / total.max(1) as f64
    }
}

/// Total and busy ticks of `/proc/stat`'s first line: user, nice, system, idle, iowait, irq, softirq, steal; guests are
/// in user and nice.
fn all(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|ticks| ticks.parse().ok()).collect();
    let total = ticks.iter().sum::<u64>();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((total, total - idle))
}

/// Ticks of a process, and of its children that have ended, of `/proc/PID/stat`. Its second field is the name in
/// brackets, which may hold anything.
fn one(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The state is field 3; utime, stime, cutime and cstime are 14 to 17.
    let ticks: Vec<u64> = rest.split_whitespace().skip(11).take(4).map_while(|ticks| ticks.parse().ok()).collect();
    let [user, system, ended_user, ended_system] = ticks[..] else { return None };
    Some((user + system, ended_user + ended_system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_by_hand() {
        let stat = "cpu  10 1 2 80 5 1 1 0 3 0\ncpu0 5 0 1 40 2 1 0 0 0 0\n";
        assert_eq!(all(stat), Some((100, 15)));
        let stat = "77 (a (odd) name) S 1 77 77 0 -1 4194560 100 0 0 0 30 12 5 3 20 0 2 0 100";
        assert_eq!(one(stat), Some((42, 8)));
        assert_eq!((all("nonsense"), one("77 (short) S 1")), (None, None));
    }

    #[test]
    fn others_are_what_is_busy_and_not_ours() {
        let then = Usage { total: 100, busy: 20, own: 10 };
        let now = Usage { total: 300, busy: 200, own: 160 };
        // 180 of 200 ticks busy, 150 of them ours.
        assert_eq!(now.others_since(then), 0.15);
        // Rounding may count more for us than for the machine.
        assert_eq!(Usage { own: 999, ..now }.others_since(then), 0.);
    }
}
