//! A dashboard: rows of panels, variables.
//!
//! - *In*: rows with their panels.
//! - *Out*: the JSON that Grafana provisions.
//! - *Never*: a data source by name: a variable selects it.

use serde_json::{Value, json};

use crate::FAMILIES;
use crate::panel::{COLUMNS, Chart};

/// Version of Grafana's model: that of Grafana 10.4, which newer versions migrate.
const SCHEMA_VERSION: u64 = 39;

/// Panels below a title.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) title: &'static str,
    pub(crate) panels: Vec<Chart>,
}

/// A dashboard.
#[derive(Debug)]
pub(crate) struct Dashboard {
    /// Its id, the same in every Grafana, so that links to it stay.
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) rows: Vec<Row>,
}

impl Dashboard {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": format!("LLM Latency Lens: {}", self.title),
            "description": self.description,
            "tags": ["llm-lens"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": true,
            "graphTooltip": 1,
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "10s",
            "timezone": "browser",
            "links": [{"type": "dashboards", "title": "LLM Latency Lens", "tags": ["llm-lens"], "asDropdown": true, "keepTime": true, "includeVars": true}],
            "templating": {"list": variables()},
            "annotations": {"list": []},
            "panels": self.panels()
        })
    }

    /// Panels from left to right, and from top to bottom.
    fn panels(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut y = 0;
        for row in &self.rows {
            all.push(json!({"id": all.len() + 1, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    (x, y, height) = (0, y + height, 0);
                }
                all.push(panel.to_json(all.len() + 1, (x, y)));
                (x, height) = (x + panel.width, height.max(panel.height));
            }
            y += height;
        }
        all
    }
}

/// Variables that all dashboards have.
fn variables() -> Vec<Value> {
    let options: Vec<Value> = FAMILIES
        .iter()
        .zip([true, false])
        .map(
            |((text, value), selected)| json!({"text": text, "value": value, "selected": selected}),
        )
        .collect();
    let family = FAMILIES.map(|(text, value)| format!("{text} : {value}")).join(",");
    let mut all = vec![
        json!({"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}),
        json!({"name": "family", "label": "Names", "type": "custom", "query": family, "options": options, "current": options[0],
            "description": "Whose names, and buckets, the engine's timings have."}),
    ];
    for (name, label, query) in [
        ("instance", "Gateway", "label_values(llm_lens_build_info, instance)"),
        ("route", "Route", "label_values(llm_lens_requests_total, route)"),
        ("backend", "Backend", "label_values(llm_lens_requests_total{route=~\"$route\"}, backend)"),
        (
            "model",
            "Model",
            "label_values(llm_lens_requests_total{route=~\"$route\"}, gen_ai_request_model)",
        ),
    ] {
        all.push(json!({
            "name": name, "label": label, "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "definition": query, "query": {"query": query, "refId": "variable"},
            "multi": true, "includeAll": true, "allValue": ".*", "refresh": 2, "sort": 1,
            "current": {"text": ["All"], "value": ["$__all"]}
        }));
    }
    all
}
