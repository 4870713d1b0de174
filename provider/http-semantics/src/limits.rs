//! Every number of HTTP's meaning, with its reason.

/// Ranges one request may name. Who resumes or reads an index needs a few; RFC 9110, 14.2, warns of many.
pub const RANGES_MAX: usize = 32;

/// Ranges that may overlap an earlier one in the same request; the RFC takes more than two for an attack.
pub const OVERLAPS_MAX: usize = 2;

/// Two parts that are this close are sent as one: the lines between them would be longer than the gap.
pub const GAP_MAX: u64 = 128;
