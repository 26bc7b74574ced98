-- What several hosts share beside the log: small values by name (where followers stand, who is blocked), and a
-- notification for each commit.

SET LOCAL search_path = :"schema", pg_temp;

-- --- values ----------------------------------------------------------------------------------------------------------

-- One sequence for all: a value that was removed and made again never has a revision that it had before.
CREATE SEQUENCE revisions;

CREATE TABLE kept (
    log_id    integer NOT NULL REFERENCES logs,
    name      text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 200),
    revision  bigint NOT NULL,
    value     bytea NOT NULL CHECK (octet_length(value) <= 268435456),
    changed   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log_id, name)
) WITH (fillfactor = 50);

ALTER TABLE kept ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_logs ON kept FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));

CREATE FUNCTION kept(p_log integer, p_name text) RETURNS TABLE (revision bigint, value bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    SELECT k.revision, k.value FROM kept k WHERE k.log_id = p_log AND k.name = p_name AND may_look(p_log)
$$;

-- Puts a value in the place of the one of this revision (0: of none), or removes it (NULL). Returns the new revision, 0
-- where there is no value any more, and NULL if nothing was done because somebody else was first.
CREATE FUNCTION keep(p_log integer, p_name text, p_value bytea, p_revision bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
DECLARE
    v_new bigint;
BEGIN
    IF NOT may_write(p_log) THEN
        RAISE EXCEPTION 'role % may not write to this log', session_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF p_value IS NULL THEN
        DELETE FROM kept k WHERE k.log_id = p_log AND k.name = p_name AND k.revision = p_revision;
        IF NOT EXISTS (SELECT FROM kept k WHERE k.log_id = p_log AND k.name = p_name) THEN
            v_new := 0;
        END IF;
    ELSIF p_revision = 0 THEN
        INSERT INTO kept AS k (log_id, name, revision, value) VALUES (p_log, p_name, nextval('revisions'), p_value)
        ON CONFLICT DO NOTHING RETURNING k.revision INTO v_new;
    ELSE
        UPDATE kept k SET revision = nextval('revisions'), value = p_value, changed = clock_timestamp()
        WHERE k.log_id = p_log AND k.name = p_name AND k.revision = p_revision RETURNING k.revision INTO v_new;
    END IF;
    RETURN v_new;
END $$;

-- --- notifications ---------------------------------------------------------------------------------------------------

-- Tells whoever listens to the channel SCHEMA.NUMBER of a log how large it is now; sent by the server when the append's
-- transaction has committed. It is a hint. A queue that nobody empties would make commits fail when it is full: before
-- that, nobody is told.
CREATE FUNCTION tell_size() RETURNS trigger LANGUAGE plpgsql SET search_path = :"schema", pg_temp AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(format('%s.%s', TG_TABLE_SCHEMA, NEW.log_id), NEW.size::text);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER tell AFTER UPDATE ON heads FOR EACH ROW WHEN (NEW.size > OLD.size) EXECUTE FUNCTION tell_size();

-- --- grants ----------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION kept(integer, text), keep(integer, text, bytea, bigint), tell_size() FROM PUBLIC;
REVOKE ALL ON TABLE kept FROM PUBLIC;
REVOKE ALL ON SEQUENCE revisions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kept(integer, text) TO :"writer", :"reader";
GRANT EXECUTE ON FUNCTION keep(integer, text, bytea, bigint) TO :"writer";
GRANT SELECT ON kept TO :"reader";
