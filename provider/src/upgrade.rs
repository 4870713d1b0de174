//! What machines of one segment agree on before one of them upgrades itself, and how people are shown what one does.

pub(crate) mod shown;
#[cfg_attr(not(test), expect(dead_code, reason = "for the role that asks"))]
pub(crate) mod turn;
