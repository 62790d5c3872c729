window.contractProbe = "loaded";
