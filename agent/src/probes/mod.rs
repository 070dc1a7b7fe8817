//! World to fact: carrier, targets, who answers for the VIP, application health.
