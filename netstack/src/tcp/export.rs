//! Export and import of a connection.
/// The description of a connection.
#[derive(Debug)]
pub struct ConnectionState {}
/// Why an import failed.
#[derive(Debug)]
pub enum ImportError {}
