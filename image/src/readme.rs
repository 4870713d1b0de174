//! Blocks of the README that a command writes: what was measured stands there as it was measured.

use anyhow::{Context, Result};

use crate::paths::Paths;

/// A block: everything from its first mark to its last.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// The line it begins with.
    pub begin: &'static str,
    /// The line it ends with.
    pub end: &'static str,
}

impl Block {
    /// The lines that stand in the README now, between the marks; none when it has no such block.
    ///
    /// # Errors
    /// When the README cannot be read.
    pub fn read(self, paths: &Paths) -> Result<String> {
        let path = paths.root().join("README.md");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.inside(&text).unwrap_or_default().to_owned())
    }

    /// What stands between the marks in `text`.
    pub fn inside(self, text: &str) -> Option<&str> {
        let (_, rest) = text.split_once(self.begin)?;
        let (inside, _) = rest.split_once(self.end)?;
        Some(inside.trim_matches('\n'))
    }

    /// Writes `lines` into the README, between the marks.
    ///
    /// # Errors
    /// When the README cannot be read or written, or has no such block.
    pub fn write(self, paths: &Paths, lines: &str) -> Result<()> {
        let path = paths.root().join("README.md");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let text = self.replaced(&text, lines).with_context(|| {
            format!("{} has no {} ... {}", path.display(), self.begin, self.end)
        })?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// `lines` with the marks around them.
    pub fn around(self, lines: &str) -> String {
        format!("{}\n{}\n{}\n", self.begin, lines.trim_end(), self.end)
    }

    fn replaced(self, text: &str, lines: &str) -> Option<String> {
        let (before, rest) = text.split_once(self.begin)?;
        let (_, after) = rest.split_once(self.end)?;
        Some(format!("{before}{}{after}", self.around(lines).trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_and_nothing_else() {
        let block = Block {
            begin: "<!-- x -->",
            end: "<!-- /x -->",
        };
        let readme = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n";
        let once = block.replaced(readme, "new\nlines\n").unwrap();
        assert_eq!(once, "before\n<!-- x -->\nnew\nlines\n<!-- /x -->\nafter\n");
        assert_eq!(block.replaced(&once, "new\nlines"), Some(once.clone()));
        assert_eq!(block.inside(&once), Some("new\nlines"));
        assert_eq!(block.inside("no block"), None);
        assert_eq!(block.replaced("no block", "new"), None);
    }
}
