/* select_wait: to come */
