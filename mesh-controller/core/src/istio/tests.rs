//! Rules of the Istio plane, by tables.
