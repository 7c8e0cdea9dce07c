//! `regex-lite` in the place of `regex`: oci-spec uses one expression, for `execCPUAffinity`, and the large engine with its Unicode
//! tables would be a sixth of the binary, which lies in memory as a whole (a sealed memfd).

pub use regex_lite::*;
