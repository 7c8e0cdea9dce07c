//! `moored oci` beyond what the oracles show.
