/*
 * The write protocol between two sidecars, central's replicas and the orphan closer, for one execution.
 *
 * docs/protocol.md lays this model beside the code, transition by transition. What Postgres' row locks make
 * atomic is atomic here; what is only a snapshot there is a snapshot here. The network is a set of requests
 * that have been sent: each may be delivered never, once or often, late and out of order, at either replica.
 *
 * Source 0 (the runner) writes RUNNING, then COMPLETED; source 1 (the other) writes a name, then COMPLETED.
 *
 * A proxy may refuse a batch for its size, whether or not an earlier copy of it arrived: its sidecar then withdraws
 * it, and cuts its entries anew under the next number.
 *
 * Each -DWITHOUT_... takes one rule out of the protocol; test_protocol_model.py shows what breaks then.
 */

#define SOURCES 2
#define WRITES 2                 /* of each source, numbered from 1 */
#define BATCHES 3                /* numbers of one epoch, from 1 */
#define EPOCHS 2
#define LEASE 2                  /* ticks of a lease */
#define RUNNER 0
#define OTHER 1

/* Budgets of what may go wrong; a run of the checker raises some of them. */
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef DAMAGES
#define DAMAGES 0
#endif
#ifndef DEFERRALS
#define DEFERRALS 0
#endif
#ifndef SPLITS
#define SPLITS 0
#endif
#ifndef OUTAGES
#define OUTAGES 0
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef BINDS
#define BINDS 3
#endif

#define is_end(seq) (seq == WRITES)
#define other(s) (1 - s)
#ifdef WITHOUT_SERVED_LEASE
#define lapse_counts true
#else
#define lapse_counts (served == LEASE)
#endif

mtype = { OPEN, FAILED, COMPLETED };                /* the execution's status */
mtype = { NONE, APPLIED, REFUSED, DEFERRED };       /* the outcome of an entry */

/* A spool: on disk, it survives the sidecar. */
typedef Spool {
    bool up;                     /* the process lives, and so does its computing unit */
    bool cut;                    /* it does not reach central */
    byte appended;               /* writes acknowledged */
    byte settled;                /* writes known to have ended: all up to this number */
    byte epoch;
    byte batch;                  /* the number of the batch in flight, or of the last one */
    byte last;                   /* its last entry; its first one is settled + 1 */
    bool in_flight;
    bool withdrawing;            /* the batch in flight is withdrawn, not sent; until the next cut */
    bool bound;                  /* the sidecar believes that it may write */
    byte generation;             /* of that binding */
    bool is_damaged;             /* the file had to be recovered: at least once from now on */
    bool unsynced;               /* the last settle may be lost with the machine's power */
    byte unsynced_from;
};
Spool spool[SOURCES];

typedef Sent {
    byte first[BATCHES];         /* the entries of batch n + 1; 0: not sent */
    byte last[BATCHES];
    bool withdrawal[BATCHES];    /* an empty batch was sent under the number, too */
};
typedef Epochs { Sent epoch[EPOCHS]; };
Epochs sent[SOURCES];

/* Central's tables. */
typedef Cursor { byte last_batch; bool is_empty; mtype outcome[3]; byte generation; };
typedef Cursors { Cursor epoch[EPOCHS]; };
Cursors cursor[SOURCES];

typedef Binding { bool exists; bool revoked; bool may_set_status; byte generation; };
Binding binding[SOURCES];
mtype status = OPEN;
bool provisional;
byte ended_by = SOURCES;                            /* the source whose end is stored */
byte lease;                                         /* ticks left; it belongs to the source below */
byte lease_of = SOURCES;
byte served;                                        /* ticks for which renewals were served without a break */
bool central_up = true;

/* What only the proof sees. */
byte applied_count[6];                              /* by source * 3 + seq */
byte last_applied[SOURCES];
bool ran[SOURCES];                                  /* held the binding while the run was open */
bool taken_over[SOURCES];                           /* revoked while the run was open: rightly refused */
bool renewed;                                       /* since the last tick */
byte alive[SOURCES];                                /* ticks for which it could renew without a break */
byte outages, crashes, deferrals, binds, damages, deaths, splits;  /* of the budgets */

inline bind(s) {
    /* `bind` of central: one transaction that locks the execution. */
    if
    :: status == OPEN && binding[other(s)].exists && !binding[other(s)].revoked && lease_of == other(s) && lease > 0 ->
        printf("source %d: bind: 409 bound-elsewhere\n", s)
    :: else ->
        if
        :: status == OPEN ->
            if
            :: binding[other(s)].exists && !binding[other(s)].revoked ->
                binding[other(s)].revoked = true;
                taken_over[other(s)] = true;
                printf("central: source %d is taken over\n", other(s))
            :: else
            fi;
            lease = LEASE; lease_of = s; renewed = true;
            ran[s] = true;
            binding[s].may_set_status = true
        :: else ->                                  /* ended: only for the other fields */
#ifdef WITHOUT_FIELD_BINDINGS
            if
            :: binding[other(s)].exists && !binding[other(s)].revoked -> binding[other(s)].revoked = true
            :: else
            fi;
            binding[s].may_set_status = true
#else
            if
            :: !binding[s].exists || binding[s].revoked -> binding[s].may_set_status = ran[s] && !taken_over[s]
            :: else
            fi
#endif
        fi;
        if
        :: !binding[s].exists || binding[s].revoked -> binding[s].generation++
        :: else
        fi;
        binding[s].exists = true;
        binding[s].revoked = false;
        spool[s].bound = true;
        spool[s].generation = binding[s].generation;
        printf("source %d: bind, generation %d, %e\n", s, binding[s].generation, status)
    fi
}

active [SOURCES] proctype Sidecar() {
    byte s = _pid;
    byte seq;
    spool[s].up = true;
    do
    /* The first durable write to an execution that the sidecar is not bound to binds it first. */
    :: atomic { spool[s].up && !spool[s].cut && central_up && !spool[s].bound && spool[s].appended < WRITES &&
                (s == RUNNER || binding[RUNNER].exists) && binds < BINDS ->
            binds++; bind(s) }

    /* append: durable, acknowledged. */
    :: atomic { spool[s].up && spool[s].bound && spool[s].appended < WRITES ->
            spool[s].appended++; spool[s].unsynced = false;
            printf("source %d: append %d\n", s, spool[s].appended) }

    /* cut and send: members and number are fixed in the spool first. Sent again it is the same request. */
    :: atomic { spool[s].up && !spool[s].in_flight && spool[s].settled < spool[s].appended && spool[s].batch < BATCHES ->
            spool[s].batch++;
            spool[s].unsynced = false;
            spool[s].in_flight = true;
            spool[s].withdrawing = false;
            if
            :: spool[s].last = spool[s].settled + 1
            :: spool[s].last = spool[s].appended
            fi;
            sent[s].epoch[spool[s].epoch].last[spool[s].batch - 1] = spool[s].last;
            sent[s].epoch[spool[s].epoch].first[spool[s].batch - 1] = spool[s].settled + 1;
            printf("source %d: batch %d of epoch %d: %d to %d\n", s, spool[s].batch, spool[s].epoch, spool[s].settled + 1, spool[s].last) }

    /* withdraw: the batch is too large for a proxy. It is marked, synced, and then an empty one takes its number,
       unless central has applied it. */
    :: atomic { splits < SPLITS && spool[s].up && spool[s].in_flight && !spool[s].withdrawing && !spool[s].cut &&
                spool[s].last > spool[s].settled + 1 ->
            splits++;
            spool[s].unsynced = false;
#ifdef WITHOUT_WITHDRAWAL
            /* A smaller batch under the same number is out of step if central has the larger one: a new epoch. */
            spool[s].epoch++; spool[s].batch = 0; spool[s].in_flight = false;
            printf("source %d: 413; a smaller batch, out of step; new epoch\n", s)
#else
            spool[s].withdrawing = true;
            sent[s].epoch[spool[s].epoch].withdrawal[spool[s].batch - 1] = true;
            printf("source %d: 413; withdraws batch %d\n", s, spool[s].batch)
#endif
            }

    /* settle: central's answer, which is in its cursor row. A withdrawn batch that was not applied has no outcomes:
       its entries wait again. */
    :: atomic { spool[s].up && spool[s].in_flight && !spool[s].cut &&
                cursor[s].epoch[spool[s].epoch].last_batch == spool[s].batch ->
            spool[s].unsynced_from = spool[s].settled;
            seq = spool[s].settled + 1;
            if
            :: cursor[s].epoch[spool[s].epoch].is_empty ->
                assert(spool[s].withdrawing);       /* it may only be withdrawn, never be sent */
                printf("source %d: batch %d was withdrawn\n", s, spool[s].batch);
                seq = spool[s].last + 1
            :: else
            fi;
            do
            :: seq > spool[s].last -> break
            :: else ->
                if
                :: cursor[s].epoch[spool[s].epoch].outcome[seq] == APPLIED ->
                    assert(applied_count[s * 3 + seq] >= 1);
                    assert(spool[s].is_damaged || applied_count[s * 3 + seq] == 1);
                    spool[s].settled = seq
                :: cursor[s].epoch[spool[s].epoch].outcome[seq] == REFUSED ->
                    assert(spool[s].is_damaged || applied_count[s * 3 + seq] == 0);
                    spool[s].settled = seq;
#ifdef WITHOUT_GENERATIONS
                    if
                    :: spool[s].bound ->
                        /* A refusal of an earlier binding says nothing of a newer one. */
                        assert(spool[s].generation <= cursor[s].epoch[spool[s].epoch].generation);
                        spool[s].bound = false
                    :: else
                    fi
#else
                    if
                    :: spool[s].bound && spool[s].generation <= cursor[s].epoch[spool[s].epoch].generation ->
                        spool[s].bound = false
                    :: else
                    fi
#endif
                :: else -> break                    /* deferred: it and all after it stay */
                fi;
                seq++
            od;
            spool[s].in_flight = false;
            spool[s].unsynced = true;
            printf("source %d: settled up to %d\n", s, spool[s].settled);
            seq = 0 }

    /* The machine's power takes the settle that was not synced: the batch is in flight again. */
    :: atomic { crashes < CRASHES && spool[s].unsynced && !spool[s].in_flight ->
            crashes++;
            printf("source %d: power lost, the settle with it\n", s);
            spool[s].settled = spool[s].unsynced_from;
            spool[s].in_flight = true;
            spool[s].unsynced = false }

    /* A damaged file: what is unsettled is cut anew under a new epoch. */
    :: atomic { damages < DAMAGES && spool[s].epoch + 1 < EPOCHS && spool[s].appended > 0 ->
            damages++;
            printf("source %d: spool recovered, new epoch\n", s);
            spool[s].epoch++;
            spool[s].batch = 0;
            spool[s].in_flight = false;
            spool[s].withdrawing = false;
            spool[s].unsynced = false;
            spool[s].is_damaged = true }

    /* renew, on its own connection. The answer of a renewal may say that the binding is gone. */
    :: atomic { spool[s].up && !spool[s].cut && central_up && spool[s].bound ->
            if
            :: binding[s].exists && !binding[s].revoked && lease_of == s && status == OPEN && !renewed ->
                lease = LEASE; renewed = true;
                printf("source %d: renewed\n", s)
            :: binding[s].revoked -> spool[s].bound = false;
                printf("source %d: renewal: revoked\n", s)
            :: else -> false
            fi }

    /* It dies with its unit, or loses its way to central. */
    :: atomic { deaths < DEATHS && spool[s].up -> deaths++; spool[s].up = false; alive[s] = 0; printf("source %d: dies\n", s) }
    :: atomic { deaths < DEATHS && spool[s].up -> deaths++; spool[s].cut = true; alive[s] = 0; printf("source %d: cut off\n", s) }
    :: atomic { !spool[s].up -> spool[s].up = true; printf("source %d: starts\n", s) }
    :: atomic { spool[s].cut -> spool[s].cut = false; printf("source %d: reaches central\n", s) }
    od
}

#define next_is_sent(s_, e_) (cursor[s_].epoch[e_].last_batch < BATCHES && \
    sent[s_].epoch[e_].last[cursor[s_].epoch[e_].last_batch] > 0)

#define next_is_withdrawn(s_) (cursor[s_].epoch[0].last_batch < BATCHES && \
    sent[s_].epoch[0].withdrawal[cursor[s_].epoch[0].last_batch])

/* An empty batch has no facts to read: it takes the cursor's lock and advances it. */
inline withdraw(s_) {
    cursor[s_].epoch[0].last_batch++;
    cursor[s_].epoch[0].is_empty = true;
    printf("replica %d: batch %d of source %d withdrawn\n", _pid, cursor[s_].epoch[0].last_batch, s_)
}

inline take(s_, e_) {
    s = s_; e = e_; n = cursor[s].epoch[e].last_batch + 1;
    may_write = binding[s].exists && !binding[s].revoked;
    may_set_status = binding[s].may_set_status;
    generation = binding[s].generation;
    printf("replica %d: snapshot for batch %d of source %d\n", _pid, n, s)
}

/* Two replicas apply batches. A statement reads its snapshot when it begins, and then waits for the cursor. */
active [2] proctype Replica() {
    byte s, e, n, seq;
    bool may_write, may_set_status, row_locked, out_of_step;
    byte generation;
begin:
    if
    :: atomic { central_up && next_is_sent(0, 0) -> take(0, 0) }
    :: atomic { central_up && next_is_sent(1, 0) -> take(1, 0) }
#if SPLITS > 0
    :: atomic { central_up && next_is_withdrawn(0) -> withdraw(0); goto begin }
    :: atomic { central_up && next_is_withdrawn(1) -> withdraw(1); goto begin }
#endif
#if DAMAGES > 0 || defined(WITHOUT_WITHDRAWAL)
    :: atomic { central_up && next_is_sent(0, 1) -> take(0, 1) }
    :: atomic { central_up && next_is_sent(1, 1) -> take(1, 1) }
#endif
#ifdef WITHOUT_CURSOR
    :: atomic { central_up && sent[0].epoch[0].last[0] > 0 -> take(0, 0); n = 1 }
#endif
    fi;
    /* Lock the cursor, judge, write, advance the cursor, commit. */
    atomic {
#ifndef WITHOUT_FACTS_AFTER_LOCK
        may_write = binding[s].exists && !binding[s].revoked;
        may_set_status = binding[s].may_set_status;
        generation = binding[s].generation;
#endif
#ifdef WITHOUT_CURSOR
        out_of_step = false;
#else
        out_of_step = (n != cursor[s].epoch[e].last_batch + 1);
#endif
        if
        :: !central_up || out_of_step ->    /* the stored answer, 409, or cut before the commit */
            printf("replica %d: not applied\n", _pid)
        :: else ->
            row_locked = false;
            if
            :: deferrals < DEFERRALS -> deferrals++; row_locked = true
            :: true
            fi;
            seq = sent[s].epoch[e].first[n - 1];
            do
            :: seq > sent[s].epoch[e].last[n - 1] -> break
            :: else ->
                if
                :: row_locked -> cursor[s].epoch[e].outcome[seq] = DEFERRED
                :: !row_locked && !may_write ->
                    /* Only a take-over of an open run, or an operator, may refuse the run's end. */
                    assert(!(is_end(seq) && ran[s] && !taken_over[s]));
                    cursor[s].epoch[e].outcome[seq] = REFUSED
                :: !row_locked && may_write ->
                    assert(binding[s].exists && !binding[s].revoked);
                    if
                    :: is_end(seq) && !may_set_status -> cursor[s].epoch[e].outcome[seq] = REFUSED
                    :: is_end(seq) && may_set_status && (status == OPEN || provisional) ->
                        assert(ran[s]);     /* nobody ends a run that it never ran */
                        status = COMPLETED; provisional = false; ended_by = s;
                        cursor[s].epoch[e].outcome[seq] = APPLIED
                    :: is_end(seq) && may_set_status && status != OPEN && !provisional ->
                        /* final: the same again succeeds, another would be a conflict */
                        assert(status == COMPLETED);
                        cursor[s].epoch[e].outcome[seq] = APPLIED
                    :: !is_end(seq) && s == RUNNER && status != OPEN ->
                        cursor[s].epoch[e].outcome[seq] = REFUSED  /* late */
                    :: else -> cursor[s].epoch[e].outcome[seq] = APPLIED
                    fi
                fi;
                if
                :: cursor[s].epoch[e].outcome[seq] == APPLIED ->
                    applied_count[s * 3 + seq]++;
                    assert(spool[s].is_damaged || applied_count[s * 3 + seq] == 1);
                    assert(spool[s].is_damaged || seq > last_applied[s]);
                    last_applied[s] = seq
                :: else
                fi;
                seq++
            od;
            cursor[s].epoch[e].last_batch = n;
            cursor[s].epoch[e].is_empty = false;
            cursor[s].epoch[e].generation = generation;
            printf("replica %d: batch %d of source %d committed, %e\n", _pid, n, s, status)
        fi;
        s = 0; e = 0; n = 0; seq = 0; generation = 0;
        may_write = false; may_set_status = false; row_locked = false; out_of_step = false }
    goto begin
}

/* Time, outages and the closer. A tick passes only when a sidecar that can renew has done so. */
inline count_alive(s_) {
    if
    :: !spool[s_].up || spool[s_].cut || !spool[s_].bound -> alive[s_] = 0
    :: else ->
        if
        :: alive[s_] < LEASE -> alive[s_]++
        :: else
        fi
    fi
}

active proctype Closer() {
    do
    :: atomic { lease_of == SOURCES || status != OPEN || renewed || !central_up || !spool[lease_of].up ||
                spool[lease_of].cut || !spool[lease_of].bound || binding[lease_of].revoked ->
            if
            :: lease > 0 -> lease--
            :: else
            fi;
            if
            :: central_up && served < LEASE -> served++
            :: else
            fi;
            count_alive(0); count_alive(1);
            renewed = false;
            printf("time passes, lease %d\n", lease) }
    :: atomic { outages < OUTAGES && central_up -> outages++; central_up = false; served = 0; printf("central: away\n") }
    :: atomic { !central_up -> central_up = true; printf("central: back\n") }
    :: atomic { central_up && status == OPEN && lease_of != SOURCES && lease == 0 && lapse_counts ->
            /* A run that lives is not closed while its renewals are served. */
            assert(alive[lease_of] < LEASE);
            status = FAILED; provisional = true; ended_by = SOURCES;
            printf("closer: FAILED, provisional\n") }
    od
}
