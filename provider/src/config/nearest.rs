//! The name somebody probably meant.

/// The one of `names` that is nearest to `name`, when it is near: a third of its letters may differ.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.chars().take(NAME_LENGTH_MAX).collect();
    names
        .into_iter()
        .map(|known| (distance(&name, known), known))
        .min()
        .filter(|(steps, known)| *steps <= known.len().div_ceil(3))
        .map(|(_, known)| known)
}

/// Letters that are compared: more than the longest name of ours, and few enough to be quick.
const NAME_LENGTH_MAX: usize = 64;

/// Letters to put in, leave out or change until `a` is `b` (Levenshtein).
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let names = ["port", "bind", "artifacts", "no_mdns", "valid_days"];
        for (slip, meant) in [
            ("prot", Some("port")),
            ("artefacts", Some("artifacts")),
            ("no-mdns", Some("no_mdns")),
            ("validdays", Some("valid_days")),
            ("PORT", None),
            ("threads", None),
            ("", None),
        ] {
            assert_eq!(nearest(slip, names), meant, "{slip}");
        }
    }
}
