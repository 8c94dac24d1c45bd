//! Lists that somebody is shown, no longer than somebody reads.

/// Cuts a list down to so many, behind which the line made by `rest` says how many more there are.
pub fn bound<T>(list: &mut Vec<T>, most: usize, rest: impl FnOnce(usize) -> T) {
    // A single one more takes no more room than the line about it.
    if list.len() > most.saturating_add(1) {
        let more = list.len() - most;
        list.truncate(most);
        list.push(rest(more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_how_many_more_there_are() {
        let shown = |count: usize| {
            let mut list: Vec<String> = (0..count).map(|n| n.to_string()).collect();
            bound(&mut list, 2, |more| format!("{more} more"));
            list.join(" ")
        };
        for (count, expected) in [(0, ""), (2, "0 1"), (3, "0 1 2"), (4, "0 1 2 more"), (9, "0 1 7 more")] {
            assert_eq!(shown(count), expected);
        }
    }
}
