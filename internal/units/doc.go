// Package units speaks to the service manager, of the system or of a user, over D-Bus: it lists, starts, replaces and stops
// the transient timers of backups, and runs modules in transient services. It also has systemd judge calendar expressions.
// Nothing else in this project speaks D-Bus or runs systemd-analyze.
//
// It decides first and acts then: names, properties, differences and shifted expressions are computed by functions without
// side effects (Diff, Shift, Service.properties, ParseProperty), and Conn's methods carry them out.
//
// What must hold:
//
//   - A method has at most 64 calls and jobs open at once. The bus allows 512 match rules and 128 pending replies a
//     connection, and systemd itself needs a match rule for every open job of a client: without a bound, a thousand starts
//     throw systemd off the bus.
//   - Only units that this package made are changed: timers that are transient and have [Documentation] among theirs, and
//     services named by [ModuleServiceName].
//   - A transient unit can only be made while no unit of its name is loaded. All units of ours have
//     CollectMode=inactive-or-failed, so that none lingers, and are stopped and reset before they are made again.
//   - What was begun is carried out: a cancelled context keeps further changes from being begun, and stops services in order.
package units
