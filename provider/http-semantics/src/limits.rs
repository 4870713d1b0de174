//! Every number of HTTP's meaning, with its reason.

/// Ranges one request may name. Who resumes or reads an index needs a few; RFC 9110, 14.2, warns of many.
pub const RANGES_MAX: usize = 32;

/// Ranges that may overlap an earlier one in the same request; the RFC takes more than two for an attack.
pub const OVERLAPS_MAX: usize = 2;

/// Two parts that are this close are sent as one: the lines between them would be longer than the gap.
pub const GAP_MAX: u64 = 128;

/// Bytes of one request head. Browsers and firmware send under 2 KiB.
pub const HEAD_SIZE_MAX: usize = 32 * 1024;

/// Fields of one request. Browsers send under 30.
pub const FIELDS_MAX: usize = 100;

/// Bytes of a method's name. The longest registered one has 17.
pub const METHOD_SIZE_MAX: usize = 32;

/// Bytes of a request target. RFC 9112, 3, recommends to take 8000.
pub const TARGET_SIZE_MAX: usize = 8 * 1024;

/// Bytes of a body that nobody asked for and that is read and dropped. More ends the connection.
pub const BODY_SIZE_MAX: u64 = 8 * 1024;

/// Media ranges of `Accept` that are looked at. Browsers send under 10.
pub const ACCEPT_RANGES_MAX: usize = 32;

/// Digests a client may wish for; eight are registered.
pub const DIGESTS_MAX: usize = 16;
