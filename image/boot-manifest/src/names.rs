//! Names that cannot hold nonsense: each is checked once, when it enters, and is then safe in a path, a URL and a log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{ARTIFACT_NAME_SIZE_MAX, CHANNEL_SIZE_MAX, FILE_NAME_SIZE_MAX};

/// A name broke the rules of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a processor architecture this product knows.
    #[error("unknown architecture {0:?}: use x86_64 (amd64) or aarch64 (arm64)")]
    Arch(String),
    /// Not a channel name.
    #[error(
        "{0:?} is no channel: 1 to {CHANNEL_SIZE_MAX} of a-z 0-9 . _ -, the first a letter or digit"
    )]
    Channel(String),
    /// Not an artifact name.
    #[error(
        "{0:?} is no artifact name: 1 to {ARTIFACT_NAME_SIZE_MAX} of a-z 0-9 . _ -, the first a letter or digit"
    )]
    Artifact(String),
    /// Not a file name.
    #[error(
        "{0:?} is no file name: 1 to {FILE_NAME_SIZE_MAX} of A-Z a-z 0-9 . _ - + ~ @ = , and no dot first"
    )]
    File(String),
}

/// A processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// 64-bit x86, also called amd64.
    X86_64,
    /// 64-bit Arm, also called arm64.
    Aarch64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The one spelling used in manifests and paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Every spelling people use, the canonical one first.
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["x86_64", "amd64"],
            Self::Aarch64 => &["aarch64", "arm64"],
        }
    }

    /// The architecture this program was built for.
    pub const fn host() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Arch {
    type Err = InvalidName;

    /// Accepts every alias; people type these.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::ALL
            .into_iter()
            .find(|arch| arch.aliases().contains(&text))
            .ok_or_else(|| InvalidName::Arch(excerpt(text)))
    }
}

impl Serialize for Arch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Arch {
    /// Accepts the canonical spelling only; machines write these.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::ALL
            .into_iter()
            .find(|arch| arch.as_str() == text)
            .ok_or_else(|| de::Error::custom(InvalidName::Arch(excerpt(&text))))
    }
}

/// At most as much of a refused name as belongs in a message.
fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

fn is_label(text: &str, size_max: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= size_max
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || b"._-".contains(&byte))
}

fn is_file_name(text: &str) -> bool {
    (1..=FILE_NAME_SIZE_MAX).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+~@=,".contains(&byte))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:ident, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidName::$error(excerpt(text)))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// A line of releases such as `stable`.
    Channel, Channel, |text| is_label(text, CHANNEL_SIZE_MAX)
}
name! {
    /// What an artifact is for: `kernel`, `initramfs`, `rootfs`, `dtb-...`.
    ArtifactName, Artifact, |text| is_label(text, ARTIFACT_NAME_SIZE_MAX)
}
name! {
    /// One path component, never hidden, never a way out of its directory, the same in a URL as on disk.
    FileName, File, is_file_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_aliases_for_people_and_one_spelling_for_machines() {
        for alias in ["x86_64", "amd64"] {
            assert_eq!(alias.parse(), Ok(Arch::X86_64));
        }
        for alias in ["aarch64", "arm64"] {
            assert_eq!(alias.parse(), Ok(Arch::Aarch64));
        }
        assert!("X86_64".parse::<Arch>().is_err());
        assert!(serde_json::from_str::<Arch>("\"amd64\"").is_err());
        assert_eq!(
            serde_json::from_str::<Arch>("\"aarch64\"").unwrap(),
            Arch::Aarch64
        );
    }

    #[test]
    fn labels() {
        for good in ["stable", "0", "a.b_c-d", &"a".repeat(32)] {
            assert!(good.parse::<Channel>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "-a",
            "_a",
            "A",
            "a/b",
            "a b",
            "a\0",
            "é",
            &"a".repeat(33),
        ] {
            assert!(bad.parse::<Channel>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(64).parse::<ArtifactName>().is_ok());
        assert!("a".repeat(65).parse::<ArtifactName>().is_err());
    }

    #[test]
    fn file_names() {
        for good in [
            "vmlinuz",
            "initramfs.img",
            "Image-6.12+deb~1",
            &"a".repeat(128),
        ] {
            assert!(good.parse::<FileName>().is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "/",
            "a\\b",
            "a b",
            "a%2fb",
            "a?b",
            "a#b",
            "a\"b",
            "a\n",
            "a\x7f",
            "é",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?}");
        }
    }
}
