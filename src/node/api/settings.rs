//! Settings that may change while the node runs.

use std::sync::Arc;

use crate::node::config::{ConfigError, RuntimeConfig};

use super::handle::NodeRef;

/// Settings.
impl NodeRef {
    /// The settings in force.
    pub fn runtime_config(&self) -> Arc<RuntimeConfig> {
        self.shared().runtime_config()
    }

    /// Changes limits, intervals and policies. They act on live connections too: peers over a
    /// lowered limit are disconnected step by step, never below the floor.
    ///
    /// # Errors
    /// Names the setting that makes no sense; nothing is changed then.
    pub fn reconfigure(&self, config: RuntimeConfig) -> Result<(), ConfigError> {
        self.shared().reconfigure(None, config).map(drop)
    }

    /// As [`NodeRef::reconfigure`], if `before` still is the configuration in force. Returns
    /// `false`, and changes nothing, if it is not. Two callers that each change a part cannot undo
    /// each other's change.
    ///
    /// # Errors
    /// As [`NodeRef::reconfigure`].
    pub fn reconfigure_from(
        &self,
        before: &Arc<RuntimeConfig>,
        config: RuntimeConfig,
    ) -> Result<bool, ConfigError> {
        self.shared().reconfigure(Some(before), config)
    }
}
