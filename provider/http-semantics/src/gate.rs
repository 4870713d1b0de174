//! Stands before everything that reads a connection, and lets only whole requests through that may be answered.
//!
//! ```text
//!            ┌─ a whole head, and its body unless its sender waits ──> through
//! received ──┼─ less than that ──> held back
//!            └─ a head that is refused ──> nothing goes through any more
//! ```
//!
//! What reads the requests afterwards may forgive more than `head` does: it never sees what was not checked, and agrees
//! with this gate about where each request ends.

use crate::head::{self, Head};
use crate::refusal::Refusal;

/// The gate of one connection.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    /// Bytes at the start that were looked at, and hold no end of a head.
    searched: usize,
    /// Bytes of the last request's body that may go through before the next head.
    body_left: u64,
}

impl Gate {
    /// How many bytes at the start of `held` may go through now. The caller takes them away, adds what it receives, and
    /// asks again; it never needs to hold more than a head, a small body, and one read.
    ///
    /// # Errors
    /// When the next request is refused. Everything before it must still be answered.
    pub fn pass(&mut self, held: &[u8]) -> Result<usize, Refusal> {
        let mut through = 0;
        loop {
            let rest = &held[through..];
            if self.body_left > 0 {
                let taken =
                    usize::try_from(self.body_left).map_or(rest.len(), |n| n.min(rest.len()));
                self.body_left -= taken as u64;
                through += taken;
                if self.body_left > 0 {
                    return Ok(through);
                }
                continue;
            }
            match self.next(rest) {
                Ok(Some(size)) => through += size,
                Ok(None) => return Ok(through),
                // The one before must get through first.
                Err(_) if through > 0 => {
                    self.searched = 0;
                    return Ok(through);
                }
                Err(refusal) => return Err(refusal),
            }
        }
    }

    /// The size of the request at the start of `rest`, when all of it is there that is waited for.
    fn next(&mut self, rest: &[u8]) -> Result<Option<usize>, Refusal> {
        let Some(end) = head::end(rest, self.searched)? else {
            self.searched = rest.len();
            return Ok(None);
        };
        let Head {
            body_size, waits, ..
        } = head::read(&rest[..end])?;
        if waits {
            self.searched = 0;
            self.body_left = body_size;
            return Ok(Some(end));
        }
        // Checked to be small.
        let size = end + usize::try_from(body_size).unwrap_or(0);
        if rest.len() < size {
            // Looking at this head again when the body is there costs less than remembering it.
            self.searched = 0;
            return Ok(None);
        }
        self.searched = 0;
        Ok(Some(size))
    }
}

#[cfg(test)]
mod tests;
