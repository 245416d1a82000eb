//! openraft held to our settings and our storage.
