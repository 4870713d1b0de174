//! The path of a request as names (RFC 3986): the only place that undoes percent-encoding.
//!
//! Repeated slashes count as one, without a redirect: firmware builds `//` by joining URLs and follows no redirects. Dot
//! segments, encoded slashes and control characters are refused, not cleaned up.

/// A path that nobody sends by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPath(pub &'static str);

/// Names of a path, at most `max` of them; whether something is behind them (more names, or a slash).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The decoded names.
    pub names: Vec<String>,
    /// Whether these are not all, or the path ends in a slash and so names a folder.
    pub goes_on: bool,
}

/// Reads the path of a request target (without its query). All of it is checked, whatever `max` is.
///
/// # Errors
/// When it has what no honest path has.
pub fn names(path: &str, max: usize) -> Result<Names, BadPath> {
    let mut names = Vec::new();
    let mut goes_on = false;
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let name = decode(segment)?;
        if names.len() < max {
            names.push(name);
        } else {
            goes_on = true;
        }
    }
    goes_on |= path.ends_with('/') && !names.is_empty();
    Ok(Names { names, goes_on })
}

/// Undoes percent-encoding in one segment.
fn decode(segment: &str) -> Result<String, BadPath> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()]
            .map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        let [Some(high), Some(low)] = digits else {
            return Err(BadPath(
                "the path has a broken percent-encoding: write % as %25",
            ));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
    }
    let text = String::from_utf8(bytes).map_err(|_| BadPath("the path is not UTF-8"))?;
    if text.chars().any(|c| c == '/' || c == '\\') {
        return Err(BadPath(
            "the path has an encoded slash or a backslash: separate names by /",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(BadPath("the path has a control character"));
    }
    if text == ".." || text == "." {
        return Err(BadPath(
            "the path has a dot segment: send the path it leads to",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_decoded_and_slashes_collapse() {
        for (path, expected, goes_on) in [
            ("", &[][..], false),
            ("/", &[], false),
            ("//", &[], false),
            ("/a", &["a"], false),
            ("//a///b", &["a", "b"], false),
            ("/a/", &["a"], true),
            ("/a/b/c", &["a", "b"], true),
            ("/x86%5F64/%7e", &["x86_64", "~"], false),
            ("/%C3%A9", &["\u{e9}"], false),
            ("/%2525", &["%25"], false),
            ("/...", &["..."], false),
        ] {
            let read = names(path, 2).unwrap();
            assert_eq!(
                (read.names, read.goes_on),
                (expected.iter().map(|n| (*n).to_owned()).collect(), goes_on),
                "{path:?}"
            );
        }
    }

    #[test]
    fn what_no_honest_path_has_is_refused_wherever_it_stands() {
        for path in [
            "/..",
            "/.",
            "/%2e%2e",
            "/%2E",
            "/.%2e",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/%zz",
            "/%4",
            "/%",
            "/%ff",
            "/a/b/c/d/..",
            "/%c0%ae%c0%ae",
            "/%c2%85",
        ] {
            assert!(names(path, 2).is_err(), "{path:?}: {:?}", names(path, 2));
        }
    }

    proptest! {
        #[test]
        fn names_never_leave_the_folder_they_are_looked_up_in(path in "[/.%a-f0-9\\\\]{0,40}|\\PC{0,30}") {
            if let Ok(read) = names(&path, 4) {
                prop_assert!(read.names.len() <= 4);
                for name in read.names {
                    prop_assert!(!name.is_empty() && name != "." && name != "..");
                    prop_assert!(!name.contains(['/', '\\', '\0']));
                }
            }
        }

        #[test]
        fn what_is_encoded_comes_back(name in "[^/\\\\.\\p{Cc}]{1,12}") {
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(names(&format!("/{encoded}"), 1).unwrap().names, vec![name]);
        }
    }
}
