-- The search index: columns of every entry, filled when it is appended. Derived and never trusted: what a query shows is
-- read from the entries, `verify` compares every column with them, and the owner can make it all anew.

SET LOCAL search_path = :"schema", pg_temp;

CREATE TABLE search (
    log_id          integer NOT NULL,
    idx             bigint NOT NULL,
    action_id       text COLLATE "C",
    "timestamp"     text COLLATE "C",
    recorded_at     text COLLATE "C",
    kind            text COLLATE "C",
    intent_id       text COLLATE "C",
    action          text COLLATE "C",
    event           text COLLATE "C",
    severity        text COLLATE "C",
    user_id         text COLLATE "C",
    initiator_ip    text COLLATE "C",
    resource_type   text COLLATE "C",
    resource_id     text COLLATE "C",
    effect          text COLLATE "C",
    cause           text COLLATE "C",
    outcome         text COLLATE "C",
    status          bigint,
    trace_id        text COLLATE "C",
    correlation_id  text COLLATE "C",
    instance        text COLLATE "C",
    sequence        bigint,
    PRIMARY KEY (log_id, idx)
) PARTITION BY RANGE (log_id, idx);

-- With the entry's place as the second column, so that what is found comes in the log's order. Values that most entries
-- have are not looked up but met on the way; only the others are indexed.
CREATE INDEX by_action_id      ON search (action_id, idx)      WHERE action_id IS NOT NULL;
CREATE INDEX by_user_id        ON search (user_id, idx)        WHERE user_id IS NOT NULL;
CREATE INDEX by_action         ON search (action, idx)         WHERE action IS NOT NULL;
CREATE INDEX by_resource_id    ON search (resource_id, idx)    WHERE resource_id IS NOT NULL;
CREATE INDEX by_trace_id       ON search (trace_id, idx)       WHERE trace_id IS NOT NULL;
CREATE INDEX by_correlation_id ON search (correlation_id, idx) WHERE correlation_id IS NOT NULL;
CREATE INDEX by_intent_id      ON search (intent_id, idx)      WHERE intent_id IS NOT NULL;
CREATE INDEX by_kind           ON search (kind, idx)           WHERE kind <> 'outcome';
CREATE INDEX by_effect         ON search (effect, idx)         WHERE effect <> 'allow';
CREATE INDEX by_outcome        ON search (outcome, idx)        WHERE outcome <> 'success';
CREATE INDEX by_severity       ON search (severity, idx)       WHERE severity <> 'info';

-- The smallest and the largest time of 1,024 entries, so that a query for a span reads little else.
CREATE TABLE blocks (
    log_id  integer NOT NULL REFERENCES logs,
    first   bigint NOT NULL,
    low     text COLLATE "C" NOT NULL,
    high    text COLLATE "C" NOT NULL,
    PRIMARY KEY (log_id, first)
) WITH (fillfactor = 70);

ALTER TABLE search ENABLE ROW LEVEL SECURITY;
ALTER TABLE blocks ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_logs ON search FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));
CREATE POLICY own_logs ON blocks FOR SELECT USING (log_id = ANY (ARRAY(SELECT readable(current_user))));

CREATE FUNCTION index_entries(p_log integer, p_first bigint, p_columns jsonb) RETURNS void
LANGUAGE sql SET search_path = :"schema", pg_temp AS $$
    WITH added AS (
        INSERT INTO search
        SELECT p_log, p_first + u.position - 1,
               r ->> 0, r ->> 1, r ->> 2, r ->> 3, r ->> 4, r ->> 5, r ->> 6, r ->> 7, r ->> 8, r ->> 9, r ->> 10,
               r ->> 11, r ->> 12, r ->> 13, r ->> 14, (r ->> 15)::bigint, r ->> 16, r ->> 17, r ->> 18,
               (r ->> 19)::bigint
        FROM jsonb_array_elements(p_columns) WITH ORDINALITY AS u (r, position)
        RETURNING idx, "timestamp")
    INSERT INTO blocks AS b (log_id, first, low, high)
    SELECT p_log, idx / 1024 * 1024, min("timestamp"), max("timestamp") FROM added
    WHERE "timestamp" IS NOT NULL GROUP BY 2
    ON CONFLICT (log_id, first) DO UPDATE SET low = least(b.low, excluded.low), high = greatest(b.high, excluded.high)
$$;

-- Empties the index of one log, to be filled again. For members of the owner.
CREATE FUNCTION clear_index(p_log integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = :"schema", pg_temp AS $$
    DELETE FROM search WHERE log_id = p_log;
    DELETE FROM blocks WHERE log_id = p_log;
$$;

-- --- grants ----------------------------------------------------------------------------------------------------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :"schema" FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA :"schema" FROM PUBLIC;
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
GRANT USAGE ON SCHEMA :"schema" TO :"writer", :"reader";
GRANT EXECUTE ON FUNCTION describe(text), newest(integer), base(integer), commit_at(integer, bigint)
    TO :"writer", :"reader";
GRANT EXECUTE ON FUNCTION lock_head(integer), append(integer, bigint, bytea, bytea, bytea, bytea, bytea[], jsonb)
    TO :"writer";
GRANT EXECUTE ON FUNCTION readable(name) TO :"reader";
GRANT SELECT ON logs, vkeys, heads, bases, commits, entries, search, blocks TO :"reader";
