//! pledge and unveil.
