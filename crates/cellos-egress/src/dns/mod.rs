//! The name server inside the cell.
