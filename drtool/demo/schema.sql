-- Tables in the shape of GitLab 18.9: those that its backup reads, those that hold encrypted values, and some for bulk.
-- Columns are a selection; names and types are GitLab's. Both kinds of partition live in their own schemas, as there.

CREATE SCHEMA gitlab_partitions_dynamic;
COMMENT ON SCHEMA gitlab_partitions_dynamic IS 'Schema to hold partitions managed dynamically from the application, e.g. for time space partitioning.';
CREATE SCHEMA gitlab_partitions_static;
COMMENT ON SCHEMA gitlab_partitions_static IS 'Schema to hold static partitions, e.g. for hash partitioning';

CREATE TABLE public.schema_migrations (version character varying NOT NULL PRIMARY KEY);
CREATE TABLE public.ar_internal_metadata (
    key character varying NOT NULL PRIMARY KEY,
    value character varying,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL
);

CREATE TABLE public.application_settings (
    id bigserial PRIMARY KEY,
    uuid character varying,
    authorized_keys_enabled boolean DEFAULT true NOT NULL,
    runners_registration_token_encrypted character varying,
    error_tracking_access_token_encrypted text,
    encrypted_ci_jwt_signing_key text,
    encrypted_ci_jwt_signing_key_iv text,
    encrypted_ci_job_token_signing_key bytea,
    encrypted_ci_job_token_signing_key_iv bytea,
    encrypted_akismet_api_key text,
    encrypted_akismet_api_key_iv text,
    asset_proxy_secret_key jsonb,
    created_at timestamp without time zone,
    silent_mode_enabled boolean DEFAULT false NOT NULL,
    deny_all_requests_except_allowed boolean DEFAULT false NOT NULL,
    outbound_local_requests_whitelist character varying(255)[] DEFAULT '{}'::character varying[] NOT NULL,
    lets_encrypt_terms_of_service_accepted boolean DEFAULT false NOT NULL,
    usage_ping_enabled boolean DEFAULT true NOT NULL,
    version_check_enabled boolean DEFAULT true,
    snowplow_enabled boolean DEFAULT false NOT NULL,
    elasticsearch_indexing boolean DEFAULT false NOT NULL,
    elasticsearch_search boolean DEFAULT false NOT NULL
);

CREATE TABLE public.cloud_connector_keys (
    id bigserial PRIMARY KEY,
    created_at timestamp with time zone NOT NULL,
    secret_key jsonb
);

CREATE TABLE public.users (
    id bigserial PRIMARY KEY,
    username character varying NOT NULL UNIQUE,
    name character varying,
    email character varying NOT NULL UNIQUE,
    encrypted_password character varying DEFAULT ''::character varying NOT NULL,
    admin boolean DEFAULT false NOT NULL,
    otp_required_for_login boolean DEFAULT false NOT NULL,
    encrypted_otp_secret character varying,
    encrypted_otp_secret_iv character varying,
    encrypted_otp_secret_salt character varying,
    otp_backup_codes text,
    created_at timestamp without time zone
);

CREATE TABLE public.keys (
    id bigserial PRIMARY KEY,
    user_id bigint REFERENCES public.users (id),
    key text,
    title character varying,
    type character varying,
    usage_type smallint DEFAULT 0 NOT NULL
);

CREATE TABLE public.namespaces (
    id bigserial PRIMARY KEY,
    name character varying NOT NULL,
    path character varying NOT NULL,
    owner_id bigint REFERENCES public.users (id),
    parent_id bigint REFERENCES public.namespaces (id),
    type character varying DEFAULT 'User'::character varying NOT NULL,
    traversal_ids bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    runners_token_encrypted character varying
);

CREATE TABLE public.projects (
    id bigserial PRIMARY KEY,
    name character varying,
    path character varying,
    description text,
    namespace_id bigint NOT NULL REFERENCES public.namespaces (id),
    creator_id bigint,
    repository_storage character varying DEFAULT 'default'::character varying NOT NULL,
    storage_version smallint DEFAULT 2,
    archived boolean DEFAULT false NOT NULL,
    visibility_level integer DEFAULT 0 NOT NULL,
    runners_token_encrypted character varying,
    created_at timestamp without time zone,
    mirror boolean DEFAULT false NOT NULL
);

CREATE TABLE public.routes (
    id bigserial PRIMARY KEY,
    source_type character varying NOT NULL,
    source_id bigint NOT NULL,
    path character varying NOT NULL UNIQUE,
    name character varying,
    UNIQUE (source_type, source_id)
);

CREATE TABLE public.project_repositories (
    id bigserial PRIMARY KEY,
    project_id bigint,
    shard_name character varying,
    disk_path character varying UNIQUE
);
CREATE TABLE public.project_wiki_repositories (
    id bigserial PRIMARY KEY,
    project_id bigint NOT NULL UNIQUE REFERENCES public.projects (id) ON DELETE CASCADE
);
CREATE TABLE public.design_management_repositories (
    id bigserial PRIMARY KEY,
    project_id bigint NOT NULL UNIQUE REFERENCES public.projects (id) ON DELETE CASCADE
);
CREATE TABLE public.pool_repositories (
    id bigserial PRIMARY KEY,
    state character varying,
    disk_path character varying,
    source_project_id bigint
);

CREATE TABLE public.snippets (
    id bigserial PRIMARY KEY,
    title character varying,
    author_id bigint,
    project_id bigint REFERENCES public.projects (id),
    type character varying NOT NULL
);
CREATE TABLE public.snippet_repositories (
    snippet_id bigint NOT NULL PRIMARY KEY REFERENCES public.snippets (id) ON DELETE CASCADE,
    shard_name character varying,
    disk_path character varying
);

CREATE TABLE public.issues (
    id bigserial PRIMARY KEY,
    project_id bigint REFERENCES public.projects (id) ON DELETE CASCADE,
    iid integer,
    author_id bigint,
    title character varying,
    description text,
    created_at timestamp without time zone,
    UNIQUE (project_id, iid)
);
CREATE TABLE public.merge_requests (
    id bigserial PRIMARY KEY,
    target_project_id bigint NOT NULL REFERENCES public.projects (id) ON DELETE CASCADE,
    iid integer,
    author_id bigint,
    source_branch character varying NOT NULL,
    target_branch character varying NOT NULL,
    title character varying,
    state_id smallint DEFAULT 1 NOT NULL,
    created_at timestamp without time zone
);
CREATE TABLE public.notes (
    id bigserial PRIMARY KEY,
    noteable_type character varying,
    noteable_id bigint,
    author_id bigint,
    project_id bigint,
    note text,
    created_at timestamp without time zone
);
CREATE TABLE public.events (
    id bigserial PRIMARY KEY,
    project_id bigint,
    author_id bigint NOT NULL,
    action smallint NOT NULL,
    target_type character varying,
    target_id bigint,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE public.ci_variables (
    id bigserial PRIMARY KEY,
    key character varying NOT NULL,
    value text,
    encrypted_value text,
    encrypted_value_salt character varying,
    encrypted_value_iv character varying,
    project_id bigint NOT NULL,
    protected boolean DEFAULT false NOT NULL,
    masked boolean DEFAULT false NOT NULL
);
CREATE TABLE public.ci_group_variables (
    id bigserial PRIMARY KEY,
    key character varying NOT NULL,
    encrypted_value text,
    encrypted_value_salt character varying,
    encrypted_value_iv character varying,
    group_id bigint NOT NULL
);
CREATE TABLE public.ci_runners (
    id bigserial PRIMARY KEY,
    description character varying,
    runner_type smallint NOT NULL,
    active boolean DEFAULT true NOT NULL,
    token_encrypted character varying
);
CREATE TABLE public.ci_pipeline_schedules (
    id bigserial PRIMARY KEY,
    description character varying,
    ref character varying,
    cron character varying,
    project_id bigint,
    active boolean DEFAULT true
);
CREATE TABLE public.remote_mirrors (
    id bigserial PRIMARY KEY,
    project_id bigint,
    url character varying,
    enabled boolean DEFAULT true
);
CREATE TABLE public.web_hooks (
    id bigserial PRIMARY KEY,
    project_id bigint,
    type character varying DEFAULT 'ProjectHook'::character varying,
    encrypted_url text,
    encrypted_url_iv text,
    encrypted_token text,
    encrypted_token_iv text,
    encrypted_url_variables bytea,
    encrypted_url_variables_iv bytea,
    push_events boolean DEFAULT true NOT NULL,
    issues_events boolean DEFAULT false NOT NULL,
    confidential_note_events boolean
);
CREATE TABLE public.integrations (
    id bigserial PRIMARY KEY,
    project_id bigint,
    type_new text,
    active boolean DEFAULT false NOT NULL,
    encrypted_properties bytea,
    encrypted_properties_iv bytea
);

CREATE TABLE public.lfs_objects (
    id bigserial PRIMARY KEY,
    oid character varying NOT NULL UNIQUE,
    size bigint NOT NULL,
    file character varying
);
CREATE TABLE public.uploads (
    id bigserial PRIMARY KEY,
    size bigint NOT NULL,
    path character varying NOT NULL,
    checksum character varying,
    model_id bigint,
    model_type character varying,
    uploader character varying NOT NULL
);
CREATE TABLE public.ci_job_artifacts (
    id bigserial PRIMARY KEY,
    project_id bigint NOT NULL,
    job_id bigint NOT NULL,
    file_type integer NOT NULL,
    size bigint,
    file character varying,
    file_sha256 bytea
);

CREATE TABLE public.web_hook_logs (
    id bigserial,
    created_at timestamp without time zone NOT NULL,
    url text,
    response_status character varying,
    PRIMARY KEY (id, created_at)
)
PARTITION BY RANGE (created_at);
CREATE TABLE gitlab_partitions_dynamic.web_hook_logs_202601 PARTITION OF public.web_hook_logs
    FOR VALUES FROM ('2026-01-01 00:00:00') TO ('2026-02-01 00:00:00');
CREATE TABLE gitlab_partitions_dynamic.web_hook_logs_202602 PARTITION OF public.web_hook_logs
    FOR VALUES FROM ('2026-02-01 00:00:00') TO ('2026-03-01 00:00:00');

CREATE TABLE public.analytics (
    namespace_id bigint NOT NULL,
    v integer
)
PARTITION BY HASH (namespace_id);
CREATE TABLE gitlab_partitions_static.analytics_00 PARTITION OF public.analytics
    FOR VALUES WITH (modulus 2, remainder 0);
CREATE TABLE gitlab_partitions_static.analytics_01 PARTITION OF public.analytics
    FOR VALUES WITH (modulus 2, remainder 1);

CREATE INDEX index_notes_on_noteable_id_and_noteable_type ON public.notes USING btree (noteable_id, noteable_type);
CREATE INDEX index_events_on_author_id_and_created_at ON public.events USING btree (author_id, created_at);
CREATE INDEX index_projects_on_lower_name ON public.projects USING btree (lower((name)::text)) WHERE NOT archived;

CREATE VIEW public.project_names AS
    SELECT p.id, r.path
    FROM public.projects p
    JOIN public.routes r ON r.source_type = 'Project' AND r.source_id = p.id;

CREATE FUNCTION public.trigger_keeps_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEW;
END
$$;
CREATE TRIGGER trigger_users_keeps_row BEFORE UPDATE ON public.users
    FOR EACH ROW EXECUTE FUNCTION public.trigger_keeps_row();

-- GitLab has both extensions; a PostgreSQL without its contrib modules has neither.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
    CREATE INDEX index_routes_on_path_trigram ON public.routes USING gin (path public.gin_trgm_ops);
  END IF;
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'btree_gist') THEN
    ALTER TABLE public.issues ADD CONSTRAINT issues_project_id_iid_excl
      EXCLUDE USING gist (project_id WITH =, iid WITH =);
  END IF;
END
$$;
