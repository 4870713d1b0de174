//! Values of the `Range` field, and what holds for all of them.

use proptest::prelude::*;

use super::Selection::{Part, Parts, Unsatisfiable, Whole};
use super::*;

fn check(text: &str, size: u64, expected: Selection) {
    assert_eq!(parse(text, size), expected, "{text:?} of {size}");
}

#[test]
fn one_range_is_served_and_clamped() {
    check("bytes=0-0", 10, Part { start: 0, end: 1 });
    check("bytes=0-9", 10, Part { start: 0, end: 10 });
    check("bytes=3-5", 10, Part { start: 3, end: 6 });
    check("bytes=3-", 10, Part { start: 3, end: 10 });
    check("bytes=9-", 10, Part { start: 9, end: 10 });
    check("bytes=3-99", 10, Part { start: 3, end: 10 });
    for huge in ["99999999999999999999999", "18446744073709551615"] {
        check(&format!("bytes=3-{huge}"), 10, Part { start: 3, end: 10 });
    }
    check("bytes=-4", 10, Part { start: 6, end: 10 });
    check("bytes=-99", 10, Part { start: 0, end: 10 });
    check(
        "bytes=-99999999999999999999999",
        10,
        Part { start: 0, end: 10 },
    );
    check("Bytes=0-4", 10, Part { start: 0, end: 5 });
    check("bytes= 0-4 ", 10, Part { start: 0, end: 5 });
    check("bytes=,0-4,", 10, Part { start: 0, end: 5 });
}

#[test]
fn what_lies_behind_the_end_is_an_error() {
    for (text, size) in [
        ("bytes=10-", 10),
        ("bytes=10-20", 10),
        ("bytes=99999999999999999999999-", 10),
        ("bytes=-0", 10),
        ("bytes=0-", 0),
        ("bytes=0-0", 0),
        ("bytes=-5", 0),
        ("bytes=10-,20-30,-0", 10),
    ] {
        check(text, size, Unsatisfiable);
    }
}

#[test]
fn the_rest_is_ignored() {
    for text in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0-1,nonsense",
        "bytes=0-1,5-2",
        "bytes=+1-2",
        "bytes=1--2",
        "bytes=0x1-2",
        "bytes=1-2-3",
        "bytes=1- 2",
        "items=0-1",
        "bytes:0-1",
        "=0-1",
        "bytes=\u{0661}-2",
    ] {
        check(text, 10, Whole);
    }
}

#[test]
fn several_ranges_are_parts_in_the_order_asked_for() {
    let size = 1_000_000;
    check(
        "bytes=0-99,5000-5099",
        size,
        Parts(vec![0..100, 5_000..5_100]),
    );
    check(
        "bytes=5000-5099, 0-99",
        size,
        Parts(vec![5_000..5_100, 0..100]),
    );
    check("bytes=0-0,-1", size, Parts(vec![0..1, size - 1..size]));
    // What does not exist is left out.
    check(
        "bytes=0-0,2000000-,500-500",
        size,
        Parts(vec![0..1, 500..501]),
    );
    check("bytes=2000000-,7-8", size, Part { start: 7, end: 9 });
}

#[test]
fn what_overlaps_or_touches_is_one_part() {
    let size = 1_000_000;
    check("bytes=0-99,50-149", size, Part { start: 0, end: 150 });
    check("bytes=100-199,0-99", size, Part { start: 0, end: 200 });
    check("bytes=0-9,100-109", size, Part { start: 0, end: 110 });
    check(
        "bytes=0-9,500000-500009,10-19",
        size,
        Parts(vec![0..20, 500_000..500_010]),
    );
    // The middle one joins two that were apart.
    check(
        "bytes=0-99,400-499,90-410",
        size,
        Part { start: 0, end: 500 },
    );
}

#[test]
fn ranges_of_attackers_get_the_whole() {
    let size = 1_000_000;
    let many: String = (0..100)
        .map(|at| format!("{}-{},", at * 1_000, at * 1_000))
        .collect();
    check(&format!("bytes={many}"), size, Whole);
    check("bytes=0-,0-,0-,0-", size, Whole);
    check("bytes=0-9,5-14,8-20,9-30", size, Whole);
    // Parts that are no shorter than the whole.
    check("bytes=0-399,600-999", 1_000, Whole);
}

#[test]
fn two_fields_are_ignored() {
    let mut headers = HeaderMap::new();
    headers.append(RANGE, "bytes=0-1".parse().unwrap());
    assert_eq!(select(&headers, 10), Part { start: 0, end: 2 });
    headers.append(RANGE, "bytes=3-4".parse().unwrap());
    assert_eq!(select(&headers, 10), Whole);
    assert_eq!(select(&HeaderMap::new(), 10), Whole);
}

/// Values near the grammar: numbers, dashes, commas and what does not belong there.
fn values() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        Just(String::new()),
        (0_u64..2_000).prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
    ];
    let spec = (number.clone(), number).prop_map(|(first, last)| format!("{first}-{last}"));
    let set =
        prop::collection::vec(spec, 0..40).prop_map(|specs| format!("bytes={}", specs.join(",")));
    prop_oneof![set, "[bytes=0-9, -]{0,40}"]
}

proptest! {
    #[test]
    fn parts_exist_are_apart_and_hold_what_was_asked(text in values(), size in 0_u64..3_000) {
        match parse(&text, size) {
            Whole | Unsatisfiable => {}
            Part { start, end } => prop_assert!(start < end && end <= size),
            Parts(parts) => {
                prop_assert!(parts.len() >= 2 && parts.len() <= RANGES_MAX);
                for (at, part) in parts.iter().enumerate() {
                    prop_assert!(part.start < part.end && part.end <= size);
                    prop_assert!(parts[..at].iter().all(|other| !are_near(part, other)));
                }
                let total: u64 = parts.iter().map(|part| part.end - part.start).sum();
                prop_assert!(total < size);
                let specs = text.trim_start_matches("bytes=").split(',');
                for asked in specs.filter_map(|spec| one(spec.trim(), size)) {
                    prop_assert!(
                        asked.is_empty()
                            || parts.iter().any(|p| p.start <= asked.start && asked.end <= p.end)
                    );
                }
            }
        }
    }
}
