//! A Git server of many small processes.
