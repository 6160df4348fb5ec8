package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name:      "list",
		Usage:     "list the domains of this host",
		ArgsUsage: "[domain]",
		Flags:     []cli.Flag{jsonFlag},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usagef("list takes one domain at most, not %d", c.NArg())
			}
			host, err := openHost(c.Context, c.String("connect"))
			if err != nil {
				return err
			}
			defer host.Close()
			domains, err := find(c, host)
			if err != nil {
				return err
			}
			return printDomains(c, domains)
		},
	}
}

func find(c *cli.Context, host xen.Host) ([]xen.DomainInfo, error) {
	if c.NArg() == 0 {
		return host.List(c.Context)
	}
	one, err := host.Find(c.Context, c.Args().First())
	return []xen.DomainInfo{one}, err
}

func printDomains(c *cli.Context, domains []xen.DomainInfo) error {
	if c.Bool(jsonFlag.Name) {
		return json.NewEncoder(c.App.Writer).Encode(domains)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tMEM(MiB)\tVCPUS\tTYPE\tSTATE\tTIME(s)")
	for _, d := range domains {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%.1f\n",
			nameText(d.Name), d.Domid, d.MemKiB/1024, d.VCPUs, d.Type, d.State, d.CPUTime.Seconds())
	}
	return w.Flush()
}
