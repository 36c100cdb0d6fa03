//! Keys whose prefix names the provider.
//!
//! - *In*: nothing; a table, one line a shape.
//! - *Out*: rules whose prefix or form the provider has published.
//! - *Never*: a shape that ordinary identifiers share; those need an assignment.

use super::checks::{body_random, looks_generated, random};
use crate::pattern::Pattern;
use crate::table::{LONG, checked, secret, vouched};

/// A key that its prefix and format identify.
const fn key(
    rule: &'static str,
    kind: &'static str,
    regex: &'static str,
    longest: usize,
) -> Pattern {
    secret(rule, kind, regex, longest, Some(body_random), 0.95)
}

/// The table.
#[rustfmt::skip]
pub(crate) const PATTERNS: &[Pattern] = &[
    secret("secret.aws_access_key", "AWS_ACCESS_KEY", r"(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16}", 20, Some(|t| !super::checks::stands_in(t)), 0.95),
    key("secret.aws_bedrock", "AWS_BEDROCK_KEY", r"ABSK[A-Za-z0-9+/]{100,}={0,2}", LONG),
    key("secret.gcp_api_key", "GCP_API_KEY", r"AIzaSy[A-Za-z0-9_\-]{33}", 39),
    key("secret.google_oauth_secret", "GOOGLE_OAUTH_SECRET", r"GOCSPX-[A-Za-z0-9_\-]{28}", 35),
    key("secret.google_access_token", "GOOGLE_ACCESS_TOKEN", r"ya29\.[A-Za-z0-9_\-]{30,}", LONG),
    key("secret.azure_client_secret", "AZURE_CLIENT_SECRET", r"[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.\-]{31,34}", 40),
    key("secret.azure_openai", "AZURE_KEY", r"[A-Za-z0-9]{52}JQQJ99[A-Z0-9]{2}AC[A-Za-z0-9]{20}", 84),
    key("secret.azure_account_key", "AZURE_STORAGE_KEY", r"(?i:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,100}={0,2}", 128),
    key("secret.azure_app_config", "AZURE_APP_CONFIG", r"(?i:Secret)=[A-Za-z0-9+/]{40,64}={0,2}", 80),
    key("secret.github_token", "GITHUB_TOKEN", r"gh[pousr]_[A-Za-z0-9]{36,}", LONG),
    key("secret.github_fine_grained", "GITHUB_TOKEN", r"github_pat_[A-Za-z0-9_]{36,}", LONG),
    key("secret.gitlab_token", "GITLAB_TOKEN", r"(?:gl(?:pat|dt|ft|soat|cbt|imt|rt|ffct)-[A-Za-z0-9_\-]{20,64}(?:\.[A-Za-z0-9_\-]{9,40})?|glptt-[A-Za-z0-9_\-]{40}|gloas-[A-Za-z0-9_\-]{64}|glagent-[A-Za-z0-9_\-]{50,100})", 120),
    key("secret.gitlab_runner", "GITLAB_TOKEN", r"GR1348941[A-Za-z0-9_\-]{20,60}", 72),
    key("secret.slack_token", "SLACK_TOKEN", r"xox[abeoprs]-(?:[0-9]{6,14}-){1,3}[A-Za-z0-9]{20,40}", 96),
    key("secret.slack_app", "SLACK_TOKEN", r"xapp-[0-9]-[A-Z0-9]{8,14}-[0-9]{8,16}-[a-f0-9]{32,64}", 120),
    key("secret.slack_refresh", "SLACK_TOKEN", r"xoxe(?:\.xox[bp])?-[0-9]-[A-Za-z0-9]{40,200}", 220),
    key("secret.slack_webhook", "SLACK_WEBHOOK", r"https?://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/+]{20,90}", 140),
    key("secret.teams_webhook", "TEAMS_WEBHOOK", r"https://[a-z0-9.\-]{3,60}office\.com/webhook(?:b2)?/[a-f0-9\-]{36}@[a-f0-9\-]{36}/IncomingWebhook/[a-f0-9]{32}/[a-f0-9\-]{36}", 280),
    key("secret.discord_webhook", "DISCORD_WEBHOOK", r"https://discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[A-Za-z0-9_\-]{60,80}", 160),
    key("secret.discord_bot", "DISCORD_TOKEN", r"[MNO][A-Za-z0-9_\-]{23,25}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,38}", 76),
    key("secret.telegram_bot", "TELEGRAM_TOKEN", r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{32,33}", 46),
    key("secret.stripe_key", "STRIPE_KEY", r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,200}", 210),
    key("secret.stripe_webhook", "STRIPE_KEY", r"whsec_[A-Za-z0-9+/=]{32,64}", 72),
    key("secret.openai_legacy", "OPENAI_KEY", r"sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}", 51),
    key("secret.openai_key", "OPENAI_KEY", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_\-]{20,80}T3BlbkFJ[A-Za-z0-9_\-]{20,80}", 200),
    key("secret.anthropic_key", "ANTHROPIC_KEY", r"sk-ant-(?:api|admin|sid|oat)[0-9]{2}-[A-Za-z0-9_\-]{80,110}AA", 140),
    key("secret.openrouter_key", "OPENROUTER_KEY", r"sk-or-v1-[a-f0-9]{64}", 73),
    key("secret.groq_key", "GROQ_KEY", r"gsk_[A-Za-z0-9]{48,56}", 60),
    key("secret.xai_key", "XAI_KEY", r"xai-[A-Za-z0-9]{70,90}", 94),
    key("secret.perplexity_key", "PERPLEXITY_KEY", r"pplx-[A-Za-z0-9]{40,60}", 65),
    key("secret.replicate_key", "REPLICATE_KEY", r"r8_[A-Za-z0-9]{36,40}", 43),
    checked(key("secret.huggingface_token", "HUGGINGFACE_TOKEN", r"(?:hf|api_org)_[A-Za-z]{34}", 42), looks_generated),
    key("secret.langsmith_key", "LANGSMITH_KEY", r"lsv2_(?:pt|sk)_[a-f0-9]{32}_[a-f0-9]{10}", 51),
    key("secret.tavily_key", "TAVILY_KEY", r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{32}", 42),
    key("secret.npm_token", "NPM_TOKEN", r"npm_[A-Za-z0-9]{36}", 40),
    key("secret.npmrc", "NPM_TOKEN", r"/:_authToken= ?[A-Za-z0-9_\-]{30,60}", 80),
    key("secret.pypi_token", "PYPI_TOKEN", r"pypi-Ag(?:EIcHlwaS5vcmc|ENdGVzdC5weXBpLm9yZw)[A-Za-z0-9_\-]{70,}", LONG),
    key("secret.crates_token", "CRATES_TOKEN", r"cio[A-Za-z0-9]{32}", 35),
    key("secret.rubygems_token", "RUBYGEMS_TOKEN", r"rubygems_[a-f0-9]{48}", 57),
    key("secret.nuget_key", "NUGET_KEY", r"oy2[a-z0-9]{43}", 46),
    key("secret.docker_token", "DOCKER_TOKEN", r"dckr_(?:pat|oat)_[A-Za-z0-9_\-]{27,40}", 52),
    key("secret.artifactory_key", "ARTIFACTORY_KEY", r"AKC[A-Za-z0-9]{64,80}", 83),
    key("secret.sendgrid_key", "SENDGRID_KEY", r"SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{32,64}", 100),
    key("secret.mailgun_key", "MAILGUN_KEY", r"key-[a-f0-9]{32}", 36),
    key("secret.mailchimp_key", "MAILCHIMP_KEY", r"[a-f0-9]{32}-us[0-9]{1,2}", 37),
    key("secret.twilio_key", "TWILIO_KEY", r"SK[a-f0-9]{32}", 34),
    key("secret.square_token", "SQUARE_TOKEN", r"sq0(?:atp|csp)-[A-Za-z0-9_\-]{22,43}", 52),
    key("secret.shopify_token", "SHOPIFY_TOKEN", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}", 38),
    key("secret.plaid_token", "PLAID_TOKEN", r"access-(?:sandbox|development|production)-[a-f0-9\-]{36}", 60),
    key("secret.facebook_token", "FACEBOOK_TOKEN", r"EAA[A-Za-z0-9]{60,}", LONG),
    key("secret.facebook_app", "FACEBOOK_TOKEN", r"[0-9]{13,17}\|[A-Za-z0-9_\-]{24,30}", 50),
    key("secret.dropbox_token", "DROPBOX_TOKEN", r"sl\.[A-Za-z0-9_\-]{100,}", LONG),
    key("secret.atlassian_token", "ATLASSIAN_TOKEN", r"ATATT3[A-Za-z0-9_\-=]{160,}", LONG),
    key("secret.bitbucket_token", "BITBUCKET_TOKEN", r"ATBB[A-Za-z0-9]{28,32}", 36),
    key("secret.figma_token", "FIGMA_TOKEN", r"figd_[A-Za-z0-9_\-]{38,46}", 52),
    key("secret.notion_token", "NOTION_TOKEN", r"ntn_[0-9]{11}[A-Za-z0-9]{35}", 50),
    key("secret.linear_key", "LINEAR_KEY", r"lin_api_[A-Za-z0-9]{40}", 48),
    key("secret.postman_key", "POSTMAN_KEY", r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}", 64),
    key("secret.grafana_token", "GRAFANA_TOKEN", r"gl(?:c_[A-Za-z0-9+/]{32,}|sa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8})", LONG),
    key("secret.grafana_legacy", "GRAFANA_TOKEN", r"eyJrIjoi[A-Za-z0-9+/]{60,}={0,2}", LONG),
    key("secret.newrelic_key", "NEWRELIC_KEY", r"NR(?:AK|II|RA|SP|JS|IQ|AL)-[A-Za-z0-9_\-]{27,44}", 50),
    key("secret.newrelic_pixie", "NEWRELIC_KEY", r"px-(?:api|dep)-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", 44),
    key("secret.dynatrace_token", "DYNATRACE_TOKEN", r"dt0[a-z][0-9]{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}", 96),
    key("secret.sourcegraph_token", "SOURCEGRAPH_TOKEN", r"sgp_(?:local_|[a-fA-F0-9]{16}_)?[a-fA-F0-9]{40}", 64),
    key("secret.segment_token", "SEGMENT_TOKEN", r"sgp_[A-Za-z0-9]{64}", 68),
    key("secret.doppler_token", "DOPPLER_TOKEN", r"dp\.(?:pt|st|sa|ct|scim|audit)\.(?:[a-z0-9_\-]{2,35}\.)?[A-Za-z0-9]{40,44}", 100),
    key("secret.digitalocean_token", "DIGITALOCEAN_TOKEN", r"do[opr]_v1_[a-f0-9]{64}", 71),
    key("secret.databricks_token", "DATABRICKS_TOKEN", r"dapi[a-f0-9]{32}(?:-[0-9])?", 38),
    key("secret.vault_service", "VAULT_TOKEN", r"hv[sbr]\.[A-Za-z0-9_\-]{24,}", LONG),
    secret("secret.vault_legacy", "VAULT_TOKEN", r"[sr]\.(?:[A-Za-z0-9]{24}|[A-Za-z0-9_\-]{80,110})", 112, Some(vault_legacy), 0.8),
    key("secret.terraform_token", "TERRAFORM_TOKEN", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_\-]{60,80}", 103),
    key("secret.pulumi_token", "PULUMI_TOKEN", r"pul-[a-f0-9]{40}", 44),
    key("secret.planetscale_token", "PLANETSCALE_TOKEN", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.\-]{32,64}", 80),
    key("secret.supabase_token", "SUPABASE_TOKEN", r"sbp_[a-f0-9]{40}", 44),
    key("secret.fly_token", "FLY_TOKEN", r"(?:fo1_[A-Za-z0-9_\-]{43}|fm[12][ar]?_[A-Za-z0-9+/]{100,}={0,3})", LONG),
    key("secret.adafruit_key", "ADAFRUIT_KEY", r"aio_[A-Za-z0-9]{28}", 32),
    key("secret.mapbox_token", "MAPBOX_TOKEN", r"[st]k\.eyJ1[A-Za-z0-9_\-]{60,240}\.[A-Za-z0-9_\-]{20,30}", 280),
    key("secret.onepassword_key", "ONEPASSWORD_KEY", r"(?:A3-[A-Z0-9]{6}-[A-Z0-9]{6}-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{5}|ops_eyJ[A-Za-z0-9+/]{200,}={0,3})", LONG),
    checked(key("secret.age_key", "AGE_KEY", r"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}", 74), looks_generated),
    key("secret.django_key", "DJANGO_KEY", r"django-insecure-[A-Za-z0-9!@#$%^&*()_=+\-]{30,60}", 76),
    key("secret.intra42", "OAUTH_SECRET", r"s-s4t2(?:ud|af)-[a-f0-9]{64}", 74),
    key("secret.dtrack_key", "DEPENDENCY_TRACK_KEY", r"odt_[A-Za-z0-9]{32,40}", 44),
    key("secret.openshift_token", "OPENSHIFT_TOKEN", r"sha256~[A-Za-z0-9_\-]{43}", 50),
    key("secret.salesforce_token", "SALESFORCE_TOKEN", r"00D[A-Za-z0-9]{12}![A-Za-z0-9_.]{60,120}", 140),
    key("secret.okta_token", "OKTA_TOKEN", r"SSWS 00[A-Za-z0-9_\-]{38,42}", 50),
    key("secret.twitch_stream", "TWITCH_KEY", r"live_[0-9]{6,12}_[A-Za-z0-9]{30}", 48),
    key("secret.truenas_key", "TRUENAS_KEY", r"[0-9]{1,3}-[A-Za-z0-9]{64}", 68),
    key("secret.razorpay_key", "RAZORPAY_KEY", r"rzp_(?:live|test)_[A-Za-z0-9]{14}", 23),
    key("secret.alibaba_key", "ALIBABA_KEY", r"LTAI[A-Za-z0-9]{16,24}", 28),
    key("secret.tencent_key", "TENCENT_KEY", r"AKID[A-Za-z0-9]{32}", 36),
    key("secret.yandex_key", "YANDEX_KEY", r"AQVN[A-Za-z0-9_\-]{35,38}", 42),
    key("secret.nvidia_key", "NVIDIA_KEY", r"nvapi-[A-Za-z0-9_\-]{60,70}", 76),
    key("secret.sentry_token", "SENTRY_TOKEN", r"sntry[su]_[A-Za-z0-9+/=_\-]{60,}", LONG),
    key("secret.paypal_braintree", "BRAINTREE_TOKEN", r"access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}", 74),
    key("secret.cloudflare_ca", "CLOUDFLARE_KEY", r"v1\.0-[a-f0-9]{24}-[a-f0-9]{146}", 178),
    key("secret.azure_devops", "AZURE_DEVOPS_TOKEN", r"[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}", 84),
    key("secret.azure_sas", "AZURE_SAS", r"sig=[A-Za-z0-9%+/]{43,90}(?:=|%3[Dd])", 100),
    key("secret.discord_token", "DISCORD_TOKEN", r"[MNO][A-Za-z0-9_\-]{23,25}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,38}", 74),
    key("secret.airtable_pat", "AIRTABLE_TOKEN", r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}", 82),
    secret("secret.prefixed", "API_KEY", r"(?:[a-z]{2,10}_(?:live|test|prod|production|sandbox|key|sk|pk|pat|api|secret|token|prv)_|[a-z]{2,6}_|[a-z]{2,6}-|[a-z]{3,8}\.)[A-Za-z0-9_\-]{28,}", LONG, Some(super::checks::prefixed), 0.65),
    vouched("secret.kubernetes_bootstrap", "KUBERNETES_TOKEN", r"[a-z0-9]{6}\.[a-z0-9]{16}", 23, Some(random), Some((&["bootstrap", "kubeadm", "token"], 0.8))),
    vouched("secret.vault_unseal", "VAULT_TOKEN", r"[A-Za-z0-9+/]{44}", 44, Some(random), Some((&["unseal", "presharedkey", "privatekey"], 0.8))),
    vouched("secret.product_uuid", "API_KEY", r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", 36, Some(random), Some((&["apitoken", "api_token", "api token", "api-key", "api_key", "apikey", "api key", "server token", "postmark", "heroku_api"], 0.7))),
];

/// Old Vault tokens have only a letter and a dot as prefix: they must have both cases and two
/// digits.
fn vault_legacy(text: &str) -> bool {
    let (Some(upper), Some(lower)) = (
        text.bytes().skip(2).find(u8::is_ascii_uppercase),
        text.bytes().skip(2).find(u8::is_ascii_lowercase),
    ) else {
        return false;
    };
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    upper != lower && digits >= 2 && random(text)
}
